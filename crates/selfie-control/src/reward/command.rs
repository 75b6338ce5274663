//! Rewards from another program, over its standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use selfie_kernels::Backend;
use selfie_llama::{Llama, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::{ControlError, Result};

/// How long to wait for a command that closed its output, to learn its exit status.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// A program that is started once. At each step it reads one JSON line per embedding
/// (`{"step":0,"layer":7,"token":3,"interpretation":"..."}`) and answers with one line each (`{"reward":-1}`), in
/// order.
pub struct CommandReward {
    command: String,
    timeout: Duration,
    child: Child,
    /// Lines for its input. A thread writes them, since a full pipe blocks.
    questions: Option<Sender<String>>,
    /// Lines of its output.
    answers: Receiver<String>,
    /// The last answered step, and its number of answers.
    last: (usize, usize),
}

#[derive(Deserialize)]
struct Answer {
    reward: f64,
}

impl CommandReward {
    /// Starts the command line in a shell. `timeout` limits all answers of a step together.
    pub fn start(command: &str, timeout: Duration) -> Result<Self> {
        let failed = |source| ControlError::CommandStart {
            command: command.to_owned(),
            source,
        };
        if command.trim().is_empty() {
            return Err(ControlError::EmptyText {
                what: "the reward command".to_owned(),
            });
        }
        check_found(command).map_err(failed)?;
        let mut child = shell(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (questions, to_write) = channel::<String>();
        let (read, answers) = channel();
        if let Some(mut input) = child.stdin.take() {
            let write = move || {
                for lines in to_write {
                    // If the command is gone, its missing answers will show it.
                    if input
                        .write_all(lines.as_bytes())
                        .and_then(|()| input.flush())
                        .is_err()
                    {
                        return;
                    }
                }
            };
            thread::Builder::new().spawn(write).map_err(failed)?;
        }
        if let Some(output) = child.stdout.take() {
            let read_on = move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if read.send(line).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().spawn(read_on).map_err(failed)?;
        }
        Ok(Self {
            command: command.to_owned(),
            timeout,
            child,
            questions: Some(questions),
            answers,
            last: (0, 0),
        })
    }

    /// Ends the command. An error if it answered more lines than it was asked.
    pub fn finish(mut self) -> Result<()> {
        self.questions = None;
        match self.answers.recv_timeout(EXIT_WAIT) {
            Err(_) => Ok(()),
            Ok(line) => Err(self.extra(line)),
        }
    }

    /// An error if there is an answer to no question.
    fn check_rest(&self) -> Result<()> {
        match self.answers.try_recv() {
            Err(_) => Ok(()),
            Ok(line) => Err(self.extra(line)),
        }
    }

    fn extra(&self, line: String) -> ControlError {
        let (step, expected) = self.last;
        ControlError::CommandExtra {
            command: self.command.clone(),
            step,
            expected,
            line,
        }
    }

    /// Its exit status, if it ends in time.
    fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    fn ended(&mut self, step: usize, answers: usize, expected: usize) -> ControlError {
        let how = match self.wait(EXIT_WAIT) {
            Some(status) => match status.code() {
                Some(code) => format!("ended with exit status {code}"),
                None => format!("was killed ({status})"),
            },
            None => "closed its output".to_owned(),
        };
        ControlError::CommandEnded {
            command: self.command.clone(),
            how,
            step,
            answers,
            expected,
        }
    }
}

impl<B: Backend> Reward<B> for CommandReward {
    fn rewards(
        &mut self,
        _: &Llama<B>,
        _: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        self.check_rest()?;
        let step = interpretations.first().map_or(0, |item| item.step);
        let expected = interpretations.len();
        let mut lines = String::new();
        for item in interpretations {
            lines.push_str(&json!(item).to_string());
            lines.push('\n');
        }
        let sent = self.questions.as_ref().map(|q| q.send(lines));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.ended(step, 0, expected));
        }
        let end = Instant::now() + self.timeout;
        let mut rewards = Vec::with_capacity(expected);
        while rewards.len() < expected {
            let left = end.saturating_duration_since(Instant::now());
            let line = match self.answers.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.ended(step, rewards.len(), expected));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(ControlError::CommandTimeout {
                        command: self.command.clone(),
                        step,
                        answers: rewards.len(),
                        expected,
                        timeout: self.timeout,
                    });
                }
            };
            match serde_json::from_str(&line) {
                Ok(Answer { reward }) if (-1.0..=1.0).contains(&reward) => rewards.push(reward),
                _ => {
                    return Err(ControlError::CommandAnswer {
                        command: self.command.clone(),
                        step,
                        line,
                    });
                }
            }
        }
        self.last = (step, expected);
        Ok(Verdicts {
            rewards,
            undecided: Vec::new(),
        })
    }

    fn describe(&self) -> Value {
        json!({"command": self.command})
    }
}

impl Drop for CommandReward {
    /// Closes the command's input, and kills it if it does not end by itself.
    fn drop(&mut self) {
        self.questions = None;
        if self.wait(EXIT_WAIT).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Fails now, rather than at the first answer, if the shell cannot find the command. Commands that are not plain names
/// (variables, quotes) are left to the shell.
#[cfg(unix)]
fn check_found(command: &str) -> std::io::Result<()> {
    let name = command.split_whitespace().next().unwrap_or("");
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if !name.chars().all(is_plain) {
        return Ok(());
    }
    let mut find = Command::new("sh");
    find.args(["-c", "command -v \"$0\"", name]);
    let status = find.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::NotFound,
        format!("there is no program \"{name}\" on the PATH"),
    ))
}

#[cfg(windows)]
fn check_found(_: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    shell
}

#[cfg(windows)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.args(["/C", command]);
    shell
}
