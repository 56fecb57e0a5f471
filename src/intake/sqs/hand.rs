//! What a poller holds: a batch on its way from the queue into the ledger. Tried again it goes on where it stopped.

use crate::{
    intake::{
        message::{self, Checked},
        trace,
    },
    ledger::{self, Accepted, Incoming, Ledger},
    record::Millis,
};
use aws_sdk_sqs::types::{Message as Sent, MessageSystemAttributeName};

/// The message attribute that carries W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// A message that the ledger answers with an error is tried so often before it is the message's own fault.
const TRIES: u32 = 5;

/// A message, as much of it as outlives its body.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub receipt: String,
}

/// A message with a job in it.
struct Good {
    message: Message,
    checked: Checked,
    queued_at: Millis,
    /// How often the ledger answered it with an error.
    failed: u32,
}

/// A message without.
struct Bad {
    message: Message,
    job: Option<String>,
    why: String,
    digest: String,
    /// Whether it is known to be the message's fault: only then may it be deleted.
    certain: bool,
}

/// A batch in hand.
#[derive(Default)]
pub struct Hand {
    good: Vec<Good>,
    bad: Vec<Bad>,
    /// Their jobs are in the ledger.
    pub taken: Vec<Message>,
    /// Their refusals are in the ledger.
    pub refused: Vec<Message>,
    /// Whether a job came in that was not known.
    pub new: bool,
}

impl Hand {
    /// Checks a batch.
    pub fn of(sent: Vec<Sent>) -> Self {
        let mut hand = Self::default();
        for sent in sent {
            let (Some(id), Some(receipt)) = (sent.message_id.clone(), sent.receipt_handle.clone()) else { continue };
            let message = Message { id, receipt };
            match message::check(sent.body.as_deref().unwrap_or_default().as_bytes()) {
                Ok(mut checked) => {
                    checked.job.traceparent = traced(&sent).or(checked.job.traceparent);
                    hand.good.push(Good { message, checked, queued_at: sent_at(&sent), failed: 0 });
                }
                Err(refusal) => {
                    let why = refusal.to_string();
                    let (job, digest) = (refusal.id, refusal.digest);
                    hand.bad.push(Bad { message, job, why, digest, certain: true });
                }
            }
        }
        hand
    }

    /// What is neither taken nor refused.
    pub fn rest(&self) -> Vec<Message> {
        self.good.iter().map(|good| &good.message).chain(self.bad.iter().map(|bad| &bad.message)).cloned().collect()
    }

    /// Brings the batch into the ledger. On an error all that is not done is still in hand.
    pub async fn take(&mut self, ledger: &Ledger, queue: &str) -> Result<(), ledger::Error> {
        match accept(ledger, &self.good).await {
            Ok(accepted) => {
                for (good, accepted) in std::mem::take(&mut self.good).into_iter().zip(accepted) {
                    self.sort(good, accepted);
                }
            }
            // It answered: one of them may be what it does not take.
            Err(error) if error.is_answered() => self.one_by_one(ledger).await?,
            Err(error) => return Err(error),
        }
        while let Some(bad) = self.bad.last() {
            ledger.refuse(queue, &bad.message.id, bad.job.as_deref(), &bad.why, &bad.digest).await?;
            self.refused.extend(self.bad.pop().filter(|bad| bad.certain).map(|bad| bad.message));
        }
        Ok(())
    }

    /// A transaction a message, so that one which the ledger does not take harms no other. It ends at the first failure that may be the
    /// ledger's own; that message comes last the next time.
    async fn one_by_one(&mut self, ledger: &Ledger) -> Result<(), ledger::Error> {
        let mut failure = None;
        for mut good in std::mem::take(&mut self.good) {
            if failure.is_some() {
                self.good.push(good);
                continue;
            }
            match accept(ledger, std::slice::from_ref(&good)).await {
                Ok(accepted) => self.sort(good, accepted.first().copied().unwrap_or(Accepted::Known)),
                Err(error) if error.is_of_the_value() => self.bad.push(good.not_taken(&error, true)),
                // A ledger that writes the refusal and not the job has something against the job. It may change its mind: the message
                // is left to the queue, whatever the settings say.
                Err(error) if error.is_answered() && good.failed + 1 >= TRIES => {
                    self.bad.push(good.not_taken(&error, false));
                }
                Err(error) => {
                    good.failed += u32::from(error.is_answered());
                    failure = Some((good, error));
                }
            }
        }
        let Some((good, error)) = failure else { return Ok(()) };
        self.good.push(good);
        Err(error)
    }

    fn sort(&mut self, good: Good, accepted: Accepted) {
        match accepted {
            Accepted::New | Accepted::Known => {
                self.new |= accepted == Accepted::New;
                self.taken.push(good.message);
            }
            Accepted::OtherContent => {
                let id = &good.checked.job.id;
                let why = format!("id: `{id}` is taken by a job with another content; give this one an id of its own");
                self.bad.push(Bad {
                    message: good.message,
                    job: Some(id.clone()),
                    why,
                    digest: good.checked.digest,
                    certain: true,
                });
            }
        }
    }
}

impl Good {
    fn not_taken(self, error: &ledger::Error, certain: bool) -> Bad {
        let why = format!("the ledger does not take it: {error}");
        let Checked { job, digest, .. } = self.checked;
        Bad { message: self.message, job: Some(job.id), why, digest, certain }
    }
}

async fn accept(ledger: &Ledger, batch: &[Good]) -> Result<Vec<Accepted>, ledger::Error> {
    if batch.is_empty() {
        return Ok(vec![]);
    }
    let incoming: Vec<_> = batch
        .iter()
        .map(|Good { checked, queued_at, .. }| Incoming {
            job: &checked.job,
            digest: &checked.digest,
            not_before_ms: checked.not_before_ms,
            queued_at: *queued_at,
        })
        .collect();
    ledger.accept_batch(&incoming).await
}

/// When the queue took the message.
fn sent_at(sent: &Sent) -> Millis {
    let at = system(sent, &MessageSystemAttributeName::SentTimestamp).and_then(|at| at.parse().ok());
    at.map_or_else(ledger::now, Millis)
}

/// The sender's own trace context goes before what AWS adds.
fn traced(sent: &Sent) -> Option<String> {
    let own = sent.message_attributes.as_ref().and_then(|attributes| attributes.get(TRACEPARENT)?.string_value());
    let aws = || trace::from_aws(system(sent, &MessageSystemAttributeName::AwsTraceHeader)?);
    own.and_then(trace::traceparent).or_else(aws)
}

fn system<'a>(sent: &'a Sent, name: &MessageSystemAttributeName) -> Option<&'a str> {
    sent.attributes.as_ref()?.get(name).map(String::as_str)
}
