//! Payloads of many readings in fewer bytes. Pure.
//!
//! `deflate` is that of HTTP: with the head and the checksum of zlib (RFC 1950). `brotli` is RFC
//! 7932; it takes more time and saves more of long texts.

/// What is done to a payload after it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Nothing.
    #[default]
    None,
    /// What every language undoes with one call.
    Deflate,
    /// Fewer bytes.
    Brotli,
}

/// The highest of deflate.
const DEFLATE_LEVEL: u8 = 9;
/// Of 11: higher ones take twenty times as long for a tenth of the bytes.
const BROTLI_QUALITY: i32 = 5;
/// The window of brotli in bits: a little more than the largest payload before it is compressed.
const BROTLI_WINDOW: i32 = 18;

impl Compression {
    /// The payload as it is sent.
    pub(super) fn compress(self, payload: Vec<u8>) -> Vec<u8> {
        match self {
            Self::None => payload,
            Self::Deflate => miniz_oxide::deflate::compress_to_vec_zlib(&payload, DEFLATE_LEVEL),
            Self::Brotli => brotli(&payload),
        }
    }
}

fn brotli(payload: &[u8]) -> Vec<u8> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: BROTLI_WINDOW,
        ..Default::default()
    };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut &payload[..], &mut compressed, &parameters)
        .expect("bytes in memory can be read and written");
    compressed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back_and_is_smaller() {
        let text = r#"{"ts":1769847330250,"values":{"flow":12.3}},"#.repeat(100);
        let inflate = |bytes: &[u8]| {
            miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(bytes, 1 << 20).unwrap()
        };
        let unbrotli = |bytes: &[u8]| {
            let mut text = Vec::new();
            brotli::BrotliDecompress(&mut &bytes[..], &mut text).unwrap();
            text
        };
        let check = |compression: Compression, undo: &dyn Fn(&[u8]) -> Vec<u8>| {
            for text in ["", "{}", &text] {
                let compressed = compression.compress(text.into());
                assert_eq!(undo(&compressed), text.as_bytes(), "{compression:?}");
                assert!(
                    compressed.len() < 120,
                    "{compression:?} {}",
                    compressed.len()
                );
            }
        };
        check(Compression::Deflate, &inflate);
        check(Compression::Brotli, &unbrotli);
        assert_eq!(Compression::None.compress(b"{}".into()), b"{}");
    }
}
