//! A DNS server on loopback that answers from a zone text, and misbehaves where the zone says so.
//!
//! Speaks RFC 1035 over UDP and TCP on one port, without name compression, with an SOA in every negative answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use kvmta::world::fake::{Kind, Record, Said, Trouble, Zone};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// Seconds that every answer may be kept.
const TTL: u32 = 60;

/// The server; it stops with the runtime of its test.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    questions: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// A server for the zone of this text.
    pub async fn start(zone: &str) -> NameServer {
        let zone: Arc<Zone> = Arc::new(zone.parse().unwrap());
        let (udp, tcp) = bind_both().await;
        let address = udp.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let server = NameServer { address, questions: questions.clone() };
        tokio::spawn(serve_udp(udp, zone.clone(), questions.clone()));
        tokio::spawn(serve_tcp(tcp, zone, questions));
        server
    }

    /// The questions so far, as `udp Mx b.example`.
    pub fn questions(&self) -> Vec<String> {
        self.questions.lock().unwrap().clone()
    }
}

/// The kernel picks the UDP port; another test may hold the TCP port of that number, so a few are tried.
async fn bind_both() -> (UdpSocket, TcpListener) {
    for _ in 0..20 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Zone>, questions: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 4096];
    while let Ok((len, client)) = socket.recv_from(&mut buffer).await {
        let Some(question) = Question::parse(&buffer[..len]) else { continue };
        questions.lock().unwrap().push(format!("udp {:?} {}", question.kind, question.name));
        if let Some(answer) = answer(&question, zone.ask(&question.name, question.kind)) {
            socket.send_to(&answer, client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>, questions: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        while let Ok(len) = stream.read_u16().await {
            let mut buffer = vec![0; usize::from(len)];
            if stream.read_exact(&mut buffer).await.is_err() {
                break;
            }
            let Some(question) = Question::parse(&buffer) else { break };
            questions.lock().unwrap().push(format!("tcp {:?} {}", question.kind, question.name));
            let said = zone.without_truncation().ask(&question.name, question.kind);
            let Some(answer) = answer(&question, said) else { continue };
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

struct Question {
    id: [u8; 2],
    name: String,
    kind: Kind,
    /// As it came, to be sent back.
    bytes: Vec<u8>,
}

impl Question {
    fn parse(message: &[u8]) -> Option<Question> {
        let id = message.get(..2)?.try_into().ok()?;
        let mut at = 12;
        let mut labels = Vec::new();
        loop {
            let len = usize::from(*message.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + len)?).to_ascii_lowercase());
            at += len;
        }
        let kind = match message.get(at..at + 2)? {
            [0, 1] => Kind::A,
            [0, 5] => Kind::Cname,
            [0, 12] => Kind::Ptr,
            [0, 15] => Kind::Mx,
            [0, 28] => Kind::Aaaa,
            _ => return None,
        };
        Some(Question { id, name: labels.join("."), kind, bytes: message.get(12..at + 4)?.into() })
    }
}

/// None is silence.
fn answer(question: &Question, said: Said) -> Option<Vec<u8>> {
    const TRUNCATED: u8 = 0x02;
    let (flags, code, records, negative) = match said {
        Said::Records(records) => (0, 0, records, false),
        Said::NoData(records) => (0, 0, records, true),
        Said::NoSuchDomain(records) => (0, 3, records, true),
        Said::Trouble(Trouble::ServFail) => (0, 2, Vec::new(), false),
        Said::Trouble(Trouble::Refused) => (0, 5, Vec::new(), false),
        Said::Trouble(Trouble::Truncated) => (TRUNCATED, 0, Vec::new(), false),
        Said::Trouble(Trouble::Garbage) => {
            return Some([question.id.as_slice(), &[0x81, 0x80, 0xff, 0xff, 0xc0]].concat());
        }
        Said::Trouble(Trouble::Timeout) => return None,
    };
    let mut message = question.id.to_vec();
    message.extend([0x81 | flags, 0x80 | code, 0, 1]);
    message.extend((records.len() as u16).to_be_bytes());
    message.extend([0, u8::from(negative), 0, 0]);
    message.extend(&question.bytes);
    for (owner, record) in &records {
        let (kind, data) = match record {
            Record::A(address) => (1, address.octets().to_vec()),
            Record::Cname(target) => (5, wire_name(target)),
            Record::Ptr(target) => (12, wire_name(target)),
            Record::Mx(preference, host) => {
                (15, [preference.to_be_bytes().to_vec(), wire_name(host)].concat())
            }
            Record::Aaaa(address) => (28, address.octets().to_vec()),
        };
        put_record(&mut message, owner, kind, &data);
    }
    if negative {
        let numbers = [1, 3600, 600, 86_400, TTL].map(u32::to_be_bytes).concat();
        let soa = [wire_name("ns.example"), wire_name("root.example"), numbers].concat();
        put_record(&mut message, "example", 6, &soa);
    }
    Some(message)
}

fn put_record(message: &mut Vec<u8>, owner: &str, kind: u16, data: &[u8]) {
    message.extend(wire_name(owner));
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message.extend(TTL.to_be_bytes());
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}
