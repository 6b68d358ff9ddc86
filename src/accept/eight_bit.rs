//! Octets above 127 as they come in: SevenBitInput, and EightBitMode=strict.
//!
//! Everything else passes them on as they are (RFC 6152), labelled or not.

/// What EightBitMode=strict says of 8-bit content that did not say BODY=8BITMIME (554 5.6.1).
pub(super) const REFUSAL: &str = "Eight bit data not allowed";

/// SevenBitInput: every octet loses its high bit. One that would become a control character becomes `?`: content that passed the
/// checks must not grow a line end or an end of data afterwards.
pub(super) fn strip(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| !byte.is_ascii()) {
        let low = *byte & 0x7f;
        *byte = if low.is_ascii_control() { b'?' } else { low };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_bits_bring_no_controls() {
        let mut bytes = *b"a\xe1\r\n\x8d\x8a.\x8d\x8a\xff\xa0\t";
        strip(&mut bytes);
        assert_eq!(&bytes, b"aa\r\n??.??? \t");
    }
}
