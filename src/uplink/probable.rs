//! The probable mistake behind an answer that is not MQTT. Pure.

/// First bytes of servers that are not MQTT brokers, and a name for each.
const STRANGERS: [(&[u8], &str); 8] = [
    (b"HTTP/", WEB),
    (b"<!DOC", WEB),
    (b"<html", WEB),
    (
        b"SSH-",
        "an SSH server answers there, no MQTT broker; check the port of `to`",
    ),
    (
        b"AMQP",
        "the remote answers AMQP there; MQTT has a port of its own, mostly 1883; check the port of `to`",
    ),
    (
        b"220 ",
        "a mail or FTP server answers there, no MQTT broker; check the port of `to`",
    ),
    (
        b"220-",
        "a mail or FTP server answers there, no MQTT broker; check the port of `to`",
    ),
    // An alert.
    (
        &[0x15, 0x03],
        "the remote expects TLS there; write mqtts:// in `to`",
    ),
];
const WEB: &str = "a web server (HTTP) answers there, no MQTT broker; check the port of `to`, or write ws:// or wss:// if the broker is behind it";

/// Who answers CONNECT with bytes that begin so, if that is known.
pub(super) fn stranger(begin: &[u8]) -> Option<&'static str> {
    STRANGERS
        .iter()
        .find(|(says, _)| begin.starts_with(says))
        .map(|(_, what)| *what)
}

/// The error of a library without the links that it names.
pub(super) fn without_links(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let is_link = |word: &&str| word.contains("http://") || word.contains("https://");
    let words: Vec<&str> = text.split(' ').filter(|word| !is_link(word)).collect();
    words
        .join(" ")
        .trim_end_matches([':', ',', ';', '(', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_other_kinds_are_known_by_their_first_bytes() {
        let check = |begin: &[u8], word: &str| {
            assert!(
                stranger(begin).is_some_and(|what| what.contains(word)),
                "{begin:?}"
            );
        };
        check(b"HTTP/1.1 400 Bad Request\r\n", "web server");
        check(b"SSH-2.0-OpenSSH_9.2\r\n", "SSH");
        check(&[0x15, 0x03, 0x01, 0, 2, 2, 70], "mqtts://");
        check(b"AMQP\x00\x00\x09\x01", "AMQP");
        // CONNACK, and what may become something.
        for begin in [&[0x20, 2, 0, 0][..], b"HT", b"", &[0x15]] {
            assert_eq!(stranger(begin), None);
        }
    }

    #[test]
    fn links_of_libraries_are_left_out() {
        let text = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/index.html#unexpected-eof";
        assert_eq!(
            without_links(&text),
            "peer closed connection without sending TLS close_notify"
        );
        assert_eq!(
            without_links(&"connection refused (os error 111)"),
            "connection refused (os error 111)"
        );
    }
}
