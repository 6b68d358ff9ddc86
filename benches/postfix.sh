#!/bin/sh
# postfix.sh DIR COMMAND...: runs COMMAND where the unpacked Postfix looks installed, with its state in DIR.
#
# A mount name space of our own lays target/neighbours/postfix over /usr and a small /etc (users, main.cf, master.cf) over
# /etc; the rest of the machine stays as it is and sees nothing of it. Root only: Postfix wants users of its own.
# PORT (its SMTP port), NEXT_HOP (port on 127.0.0.1) and EXTRA (more main.cf lines) come from the environment when
# COMMAND is `configure`, which writes the settings and makes the queue directories.
set -eu
package=$(cd "$(dirname "$0")/../target/neighbours/postfix" && pwd)
dir=$1
shift
if [ "$1" = configure ]; then
  mkdir -p "$dir/etc/postfix" "$dir/spool" "$dir/data" "$dir/log"
  { grep -v '^postfix:' /etc/passwd; echo 'postfix:x:64401:64401::/nonexistent:/bin/false'; } >"$dir/etc/passwd"
  { grep -v '^post\(fix\|drop\):' /etc/group; echo 'postfix:x:64401:'; echo 'postdrop:x:64402:'; } >"$dir/etc/group"
  cp "$package/usr/share/postfix/dynamicmaps.cf" "$dir/etc/postfix/"
  # Services out of their chroots, SMTP on our port; everything else as shipped.
  sed -E -e "s/^smtp +inet .*/127.0.0.1:$PORT inet n - n - - smtpd/" \
    -e 's/^([a-z]+ +(unix|unix-dgram) +[-ny] +[-ny] +)y /\1n /' "$package/usr/share/postfix/master.cf.dist" >"$dir/etc/postfix/master.cf"
  cat >"$dir/etc/postfix/main.cf" <<E2
compatibility_level = 3.6
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:$NEXT_HOP
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_tls_security_level = none
disable_dns_lookups = yes
smtp_host_lookup = native
alias_maps =
local_recipient_maps =
queue_directory = $dir/spool
data_directory = $dir/data
maillog_file_prefixes = $dir
maillog_file = $dir/log/maillog
E2
  printf '%s\n' "${EXTRA:-}" >>"$dir/etc/postfix/main.cf"
  chown 64401 "$dir/data"
  chmod 755 "$dir" "$dir/spool"
  exit 0
fi
export DIR="$dir" PACKAGE="$package"
exec unshare --mount --propagation private sh -euc '
  mount -t overlay -o ro,lowerdir="$PACKAGE/usr:/usr" overlay /usr
  mount -t overlay -o ro,lowerdir="$DIR/etc:$PACKAGE/etc:/etc" overlay /etc
  exec "$@"' sh "$@"
