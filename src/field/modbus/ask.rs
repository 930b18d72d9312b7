//! Questions of a person: to any unit, at any place, without a trace in what the driver knows of its devices.

use std::time::Duration;

use tokio::time::sleep;
use tokio_modbus::Request;
use tokio_modbus::prelude::ReadCode;

use super::Modbus;
use super::identify::{LONGEST, said_by};
use super::link::Answer;
use super::plan::bytes_of;
use super::words::{frame_lengths, reading, words};
use crate::field::ask::{Ask, Said};
use crate::field::decode::Table;
use crate::field::trouble::Trouble;
use crate::time::now;

impl Modbus {
    /// Asks a unit. One that owes an answer of the same length is not asked while a plan has other things to do.
    pub(super) async fn ask_anybody(&mut self, unit: u8, ask: &Ask, within: Duration) -> Said {
        if let Err(why) = self.connected().await {
            return Said::NoLine(why.to_string());
        }
        self.forget_owed(unit);
        let bytes = match ask {
            Ask::Registers { table, count, .. } => bytes_of(*table, *count),
            Ask::Identity => 0,
        };
        let debtor = self.debtor(unit);
        if self
            .late
            .get(&debtor)
            .is_some_and(|owed| owed.contains_key(&bytes))
        {
            // The answer that is owed would be taken for this one. Nobody else's turn is spent on waiting for it.
            if !self.blocks.is_empty() {
                return Said::Garbage(format!(
                    "unit {unit} has not answered an earlier request yet; try again in a few seconds"
                ));
            }
            sleep(self.patience.of(unit, now()).max(self.bounds.most)).await;
            self.late.remove(&debtor);
        }
        match ask {
            Ask::Registers {
                table,
                start,
                count,
            } => {
                self.ask_registers(unit, (*table, *start, *count), within)
                    .await
            }
            Ask::Identity => self.ask_identity(unit, within).await,
        }
    }

    async fn ask_registers(
        &mut self,
        unit: u8,
        (table, start, count): (Table, u16, u16),
        within: Duration,
    ) -> Said {
        let bytes = bytes_of(table, count);
        match self
            .ask_raw(
                unit,
                reading(table, start, count),
                frame_lengths(table, bytes),
                within,
            )
            .await
        {
            Ok(Answer::Response(response)) => match words(response, count) {
                Ok(mut words) => {
                    words.truncate(usize::from(count));
                    Said::Words(words)
                }
                Err(why) => Said::Garbage(why.to_string()),
            },
            Ok(answer) => {
                if matches!(
                    answer,
                    Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_)
                ) {
                    self.owes(unit, bytes);
                }
                said(&answer)
            }
            Err(said) => {
                if matches!(said, Said::Garbage(_)) {
                    // Something came, and the answer may still come.
                    self.owes(unit, bytes);
                }
                said
            }
        }
    }

    async fn ask_identity(&mut self, unit: u8, within: Duration) -> Said {
        let newer = self
            .ask_raw(
                unit,
                Request::ReadDeviceIdentification(ReadCode::Basic, 0),
                (7, LONGEST),
                within,
            )
            .await;
        let answer = match newer {
            Ok(Answer::Exception(_)) => {
                self.ask_raw(unit, Request::ReportServerId, (4, LONGEST), within)
                    .await
            }
            other => other,
        };
        match answer {
            Ok(answer @ Answer::Response(_)) => match said_by(&answer) {
                Some(text) => Said::Identity(text),
                None => Said::Garbage("received an answer to another request".to_owned()),
            },
            Ok(answer) => said(&answer),
            Err(said) => said,
        }
    }

    /// Asks. The error is what is said without an answer.
    async fn ask_raw(
        &mut self,
        unit: u8,
        request: Request<'static>,
        lengths: (u32, u32),
        within: Duration,
    ) -> Result<Answer, Said> {
        let known = self.devices.iter().find(|device| device.unit == unit);
        let pause = known.map_or(self.manners.pause, |device| device.pause);
        let Some(link) = self.link.as_mut() else {
            return Err(Said::NoLine("the connection broke".to_owned()));
        };
        link.keep_silent(pause);
        let told = link.ask(unit, request, within, lengths).await;
        // Counted with nobody: the unit may be none of the file.
        let (seen, _) = link.take_seen();
        match told.answer {
            Answer::Broken(why) => {
                self.link = None;
                Err(Said::NoLine(why))
            }
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_) => {
                let mut trouble = Trouble::default();
                trouble.note(&seen.into());
                match trouble.reason() {
                    Some(why) => Err(Said::Garbage(why)),
                    None => Ok(told.answer),
                }
            }
            answer => Ok(answer),
        }
    }
}

fn said(answer: &Answer) -> Said {
    match answer {
        Answer::Nothing => Said::Nothing,
        Answer::Exception(code) => Said::Exception(*code),
        Answer::Garbage(why) | Answer::Foreign(why) => Said::Garbage((*why).to_owned()),
        Answer::Broken(why) => Said::NoLine(why.clone()),
        Answer::Response(_) => Said::Garbage("received an answer to another request".to_owned()),
    }
}
