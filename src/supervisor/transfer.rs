//! The transfer's two ends: how the loop's owner starts it, and what it gathers when nothing of it is left.

use super::{
    Supervisor,
    child::{self, Child, Transfer},
    grant::Prepared,
    lease::Lease,
    outcome,
    phase::{self, Event, Exit},
    random,
    relay::Relay,
    report::Note,
    usage,
};
use crate::record::{
    outcome::{Commit, Ending},
    wire::Directive,
};
use anyhow::Context as _;
use std::{ffi::OsString, sync::Arc};

impl Supervisor {
    pub(super) fn spawn(&mut self) -> Vec<Event> {
        let prepared = self.prepare();
        // A slow disk may have taken all of the lease, or the ledger has renewed it meanwhile.
        let news = self.news();
        if self.alarm.lease().is_some_and(Lease::is_over) || news.contains(&Event::Told(Directive::Superseded)) {
            self.prepared.clean_up();
            return vec![Event::TooLate];
        }
        let child = prepared.and_then(|()| self.start());
        [vec![self.started(child)], news].concat()
    }

    fn started(&mut self, child: anyhow::Result<Child>) -> Event {
        match child {
            Ok(child) => {
                self.child = Some(child);
                if let Some(job) = &self.config.job {
                    self.tell(Note::Started { work_dir: job.work_dir.clone() });
                }
                Event::Spawned
            }
            Err(error) => {
                let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
                tracing::error!("{error:#}");
                self.trouble = Some(format!("{error:#}"));
                Event::Exited(Exit::NotStarted(errno.unwrap_or(libc::EIO)))
            }
        }
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        if let (Some(job), Some(grant)) = (&self.config.job, &self.grant) {
            self.prepared = Prepared::new(grant, &random()?, &job.work_dir, &job.secrets_dir, self.config.user)?;
        }
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<Child> {
        let output = if self.config.relay {
            let (relay, output) = Relay::new(Arc::clone(&self.seen)).context("relay the output")?;
            self.relay = Some(relay);
            Some(output)
        } else {
            None
        };
        let mut command: Vec<OsString> = self.config.command.clone();
        command.extend(self.prepared.arguments.iter().cloned());
        let program = command.first().cloned().unwrap_or_default();
        let transfer = Transfer { command: &command, env: &self.prepared.env, user: self.config.user, output };
        Child::spawn(transfer).with_context(|| format!("start `{}`", program.to_string_lossy()))
    }

    pub(super) fn conclude(&self, exit: Exit, reason: Option<phase::Reason>, incomplete: bool) -> Ending {
        let last_lines: Vec<String> = self.seen.last_lines().iter().map(|line| self.prepared.redact(line)).collect();
        let group = usage::group();
        let oom_kills = group.oom_kills.zip(self.oom_kills_before).map(|(now, before)| now.saturating_sub(before));
        let error = self.seen.error().map(|error| self.prepared.redact(&error));
        let mut trouble = self.trouble.clone();
        let cursor = if exit == Exit::Code(0) { self.prepared.next_cursor() } else { Ok(None) };
        let cursor = cursor.unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            trouble = Some(format!("{error:#}"));
            None
        });
        outcome::conclude(outcome::Evidence {
            exit,
            reason,
            asked_by: &self.senders.evidence(),
            lease: self.alarm.lease(),
            oom_kills,
            victim: self.victim,
            left: incomplete.then(child::left),
            memory_limit_bytes: group.memory_limit_bytes,
            memory_peak_bytes: group.memory_peak_bytes,
            error: error.as_deref(),
            temporary_tables: &self.seen.temporary_tables(),
            commit: self.seen.commit().map(|commit| Commit { line: self.prepared.redact(&commit.line), ..commit }),
            last_lines: &last_lines,
            trouble: trouble.as_deref(),
            cursor,
        })
    }
}
