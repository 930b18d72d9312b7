//! Diagnostic requests: to any unit, at any address, without a trace in the driver's knowledge of
//! its devices.

use std::time::Duration;

use tokio::time::sleep;
use tokio_modbus::Request;

use super::Modbus;
use super::block::bytes_of;
use super::identify::{identification, identity_in, server_id};
use super::link::Answer;
use super::words::{FrameLengths, frame_lengths, reading, words};
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use crate::field::trouble::Trouble;
use crate::time::now;

impl Modbus {
    /// Makes a request to any unit. It is refused while the unit owes an answer of the same length
    /// and the line has a plan.
    pub(super) async fn ask_anybody(
        &mut self,
        unit: u8,
        ask: &DiagnosticRequest,
        within: Duration,
    ) -> DiagnosticResponse {
        if let Err(why) = self.connected().await {
            return DiagnosticResponse::NoLine(why.to_string());
        }
        self.forget_owed(unit);
        let bytes = match ask {
            DiagnosticRequest::Registers { table, count, .. } => bytes_of(*table, *count),
            DiagnosticRequest::Identity => 0,
        };
        if self.owed.owes_length(unit, bytes) {
            // The answer that is owed would be taken for this one. A plan does not wait for it.
            if !self.blocks.is_empty() {
                return DiagnosticResponse::Garbage(format!(
                    "unit {unit} has not answered an earlier request yet; try again in a few seconds"
                ));
            }
            sleep(self.timeouts.of(unit, now()).max(self.bounds.most)).await;
            self.owed.settle(unit);
        }
        match *ask {
            DiagnosticRequest::Registers {
                table,
                start,
                count,
            } => {
                let (request, lengths) =
                    (reading(table, start, count), frame_lengths(table, bytes));
                let answer = self.ask_raw(unit, request, lengths, within).await;
                if answer.as_ref().map_or_else(
                    |said| matches!(said, DiagnosticResponse::Garbage(_)),
                    Answer::is_missing,
                ) {
                    // The answer may still come.
                    self.owes(unit, bytes);
                }
                answer.map_or_else(|said| said, |answer| registers_in(answer, count))
            }
            DiagnosticRequest::Identity => self.ask_identity(unit, within).await,
        }
    }

    async fn ask_identity(&mut self, unit: u8, within: Duration) -> DiagnosticResponse {
        let (request, lengths) = identification();
        let answer = match self.ask_raw(unit, request, lengths, within).await {
            Ok(Answer::Exception(_)) => {
                let (request, lengths) = server_id();
                self.ask_raw(unit, request, lengths, within).await
            }
            other => other,
        };
        match answer {
            Ok(answer @ Answer::Response(_)) => match identity_in(&answer) {
                Some(text) => DiagnosticResponse::Identity(text),
                None => DiagnosticResponse::Garbage(ANOTHER.to_owned()),
            },
            Ok(answer) => said(&answer),
            Err(said) => said,
        }
    }

    /// Makes one request. The error: the response if there is no answer.
    async fn ask_raw(
        &mut self,
        unit: u8,
        request: Request<'static>,
        lengths: FrameLengths,
        within: Duration,
    ) -> Result<Answer, DiagnosticResponse> {
        let known = self.devices.iter().find(|device| device.unit == unit);
        let pause = known.map_or(self.manners.pause, |device| device.pause);
        let Some(link) = self.link.as_mut() else {
            return Err(DiagnosticResponse::NoLine(
                "the connection broke".to_owned(),
            ));
        };
        link.keep_silent(pause);
        let exchange = link.ask(unit, request, within, lengths).await;
        // Not counted: the unit may be none of the file.
        let (seen, _) = link.take_seen();
        match exchange.answer {
            Answer::Broken(why) => {
                self.link = None;
                Err(DiagnosticResponse::NoLine(why))
            }
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_) => {
                let mut trouble = Trouble::default();
                trouble.note(&seen.into());
                match trouble.reason() {
                    Some(why) => Err(DiagnosticResponse::Garbage(why)),
                    None => Ok(exchange.answer),
                }
            }
            answer => Ok(answer),
        }
    }
}

const ANOTHER: &str = "received an answer to another request";

/// The registers in an answer, if their number is right.
fn registers_in(answer: Answer, count: u16) -> DiagnosticResponse {
    let Answer::Response(response) = answer else {
        return said(&answer);
    };
    match words(response, count) {
        Ok(mut words) => {
            words.truncate(usize::from(count));
            DiagnosticResponse::Words(words)
        }
        Err(why) => DiagnosticResponse::Garbage(why.to_string()),
    }
}

fn said(answer: &Answer) -> DiagnosticResponse {
    match answer {
        Answer::Nothing => DiagnosticResponse::Nothing,
        Answer::Exception(code) => DiagnosticResponse::Exception(*code),
        Answer::Garbage(why) | Answer::Foreign(why) => {
            DiagnosticResponse::Garbage((*why).to_owned())
        }
        Answer::Broken(why) => DiagnosticResponse::NoLine(why.clone()),
        Answer::Response(_) => DiagnosticResponse::Garbage(ANOTHER.to_owned()),
    }
}
