//! Headers that a WebSocket sends with its request.

use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

use super::RemoteSecret;

/// Names that the request itself needs.
const OF_THE_REQUEST: [&str; 4] = ["connection", "upgrade", "host", "content-length"];

/// Checks a header. What is wrong is said without the value, which may be a secret.
pub fn header(name: &str, value: &RemoteSecret) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || {
        format!(
            "`{name}` is not the name of a header; write letters, digits and dashes, such as X-Site"
        )
    };
    let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    if OF_THE_REQUEST.contains(&known.as_str()) || known.as_str().starts_with("sec-websocket-") {
        return Err(format!(
            "`{name}` belongs to the WebSocket itself; remove it"
        ));
    }
    let mut value = HeaderValue::from_str(&value.0)
        .map_err(|_| format!("the value of `{name}` has characters that no header may have; write it in one line of ASCII"))?;
    value.set_sensitive(true);
    Ok((known, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked_and_their_values_never_shown() {
        let check = |name: &str, value: &str| {
            header(name, &RemoteSecret(value.to_owned())).map(|(name, _)| name.to_string())
        };
        assert_eq!(check("X-Site", "seven"), Ok("x-site".to_owned()));
        assert!(check("Authorization", "Bearer hunter2").is_ok());
        for (name, value) in [
            ("X Site", "hunter2"),
            ("", "hunter2"),
            ("Sec-WebSocket-Key", "hunter2"),
            ("Host", "hunter2"),
            ("X", "hunter2\n"),
        ] {
            let told = check(name, value).unwrap_err();
            assert!(!told.contains("hunter2"), "{told}");
        }
        let (_, value) = header("X", &RemoteSecret("hunter2".to_owned())).unwrap();
        assert!(!format!("{value:?}").contains("hunter2"));
    }
}
