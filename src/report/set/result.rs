//! The result of a write, as it is published on `.../set/result`. Pure.

use serde::Serialize;
use serde_json::Value as Json;

use crate::payload::json;
use crate::reading::Value;
use crate::time::rfc3339;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WriteStatus {
    Ok,
    Rejected,
    Exception,
    TimeoutUnknown,
    VerifyMismatch,
    Expired,
}

impl WriteStatus {
    /// As it is published.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Exception => "exception",
            Self::TimeoutUnknown => "timeout_unknown",
            Self::VerifyMismatch => "verify_mismatch",
            Self::Expired => "expired",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WriteResult {
    pub(super) status: WriteStatus,
    pub(super) code: Option<u8>,
    pub(super) reason: Option<String>,
    /// The values that the device holds after it, by point; a single point has the empty name.
    pub(super) values: Vec<(String, Value)>,
}

impl WriteResult {
    pub(super) fn new(status: WriteStatus) -> Self {
        Self {
            status,
            code: None,
            reason: None,
            values: Vec::new(),
        }
    }

    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::new(WriteStatus::Rejected)
        }
    }

    pub(super) fn json(&self, id: Option<&Json>, unix_ms: i64) -> String {
        #[derive(Serialize)]
        struct Published<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a Json>,
            status: WriteStatus,
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<u8>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            value: Option<Json>,
            ts: String,
        }
        let value = match self.values.as_slice() {
            [] => None,
            [(name, value)] if name.is_empty() => Some(to_json(value)),
            several => Some(Json::Object(
                several
                    .iter()
                    .map(|(name, value)| (name.clone(), to_json(value)))
                    .collect(),
            )),
        };
        let published = Published {
            id,
            status: self.status,
            code: self.code,
            reason: self.reason.as_deref(),
            value,
            ts: rfc3339(unix_ms),
        };
        json::text(&published)
    }
}

fn to_json(value: &Value) -> Json {
    // A number that JSON does not have, such as NaN, is null.
    serde_json::to_value(json::Number::from(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_published_as_documented() {
        let done = WriteResult {
            values: vec![(String::new(), Value::F64(12.5))],
            ..WriteResult::new(WriteStatus::Ok)
        };
        assert_eq!(
            done.json(Some(&"a".into()), 1_769_847_330_250),
            r#"{"id":"a","status":"ok","value":12.5,"ts":"2026-01-31T08:15:30.250Z"}"#
        );
        let no = WriteResult {
            code: Some(2),
            ..WriteResult::new(WriteStatus::Exception)
        };
        assert_eq!(
            no.json(None, 1_769_847_330_250),
            r#"{"status":"exception","code":2,"ts":"2026-01-31T08:15:30.250Z"}"#
        );
        let unknown = WriteResult::new(WriteStatus::TimeoutUnknown).json(None, 0);
        assert!(unknown.contains("timeout_unknown"), "{unknown}");
    }
}
