//! `ebfw policy test`: what a policy does with flows, from flags or from lines of JSON.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use clap::{Args, ValueHint};

use super::{
    OutputFlag,
    judge::{Explained, Judge, Question},
    source::Policies,
    verdict,
};
use crate::{
    cli::{
        self,
        output::{self, Stdout},
    },
    config::Output,
    exit::{Exit, Usage},
};

/// Bytes of a line of JSON at most: far more than a flow has, far less than would hurt.
const MAX_LINE: u64 = 1 << 20;

/// Lines that are no flow of which each is told; a file that holds no flows at all has many.
const MAX_TOLD: u64 = 100;

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct TestArgs {
    /// Policy file, or file or directory of manifests; of manifests several
    #[arg(short = 'f', long, required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    policy: Vec<PathBuf>,
    /// A flow; may be given several times. Without any, standard input holds one JSON object a line
    #[arg(long = "flow", value_name = "KEY=VALUE …")]
    flows: Vec<String>,
    /// Say of each rule whether it matches, and what rules it out
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    form: OutputFlag,
}

pub(super) fn main(args: TestArgs) -> anyhow::Result<Exit> {
    let TestArgs {
        policy,
        flows,
        explain,
        form,
    } = args;
    if flows.is_empty() && policy.iter().any(|path| path == Path::new("-")) {
        let reason =
            "standard input cannot be both the policy and the flows: give --flow or a file";
        return Err(Usage(reason.to_owned()).into());
    }
    let Some(questions) = read_flags(&flows) else {
        return Ok(Exit::USAGE);
    };
    let judge = Judge::new(Policies::read(&policy)?);
    let mut report = Report {
        judge,
        explain,
        form: form.output,
        judged: 0,
        unexpected: 0,
        misread: 0,
    };
    match report.write(questions) {
        Err(error) if !output::is_closed_pipe(&error) => Err(error),
        Ok(()) | Err(_) => Ok(report.exit()),
    }
}

/// `None`, with all that is wrong said, if a flow is none.
fn read_flags(flows: &[String]) -> Option<Vec<Question>> {
    let mut questions = Vec::with_capacity(flows.len());
    for words in flows {
        match Question::words(words) {
            Ok(question) => questions.push(question),
            Err(error) => {
                cli::complain(&format!("--flow '{}': {error}", words.escape_debug()));
            }
        }
    }
    (questions.len() == flows.len()).then_some(questions)
}

struct Report {
    judge: Judge,
    explain: bool,
    form: Output,
    judged: u64,
    unexpected: u64,
    /// Lines that are no flow.
    misread: u64,
}

impl Report {
    /// Judges `questions`, or those of standard input where there is none.
    fn write(&mut self, questions: Vec<Question>) -> anyhow::Result<()> {
        let mut out = Stdout::lock();
        let outcome = if questions.is_empty() {
            self.lines(&mut out, BufReader::new(io::stdin().lock()))
        } else {
            questions
                .into_iter()
                .try_for_each(|question| self.question(&mut out, question))
        };
        // What was judged before something went wrong is printed all the same.
        out.flush()?;
        outcome
    }

    fn question(&mut self, out: &mut impl Write, question: Question) -> anyhow::Result<()> {
        let judged = self.judge.judge(question)?;
        self.judged += 1;
        self.unexpected += u64::from(judged.as_expected() == Some(false));
        let explained = match self.explain {
            true => self.judge.explain(&judged.question.flow),
            false => Explained::default(),
        };
        match self.form {
            Output::Text => verdict::write_text(out, &judged, &explained)?,
            Output::Json => verdict::write_json(out, &judged, &explained)?,
        }
        Ok(())
    }

    /// Judges a flow a line; of a line that is none it says so, and goes on. Verdicts are flushed whenever the input runs dry, so that a program
    /// that asks line by line gets its answers.
    fn lines(
        &mut self,
        out: &mut impl Write,
        mut input: BufReader<impl Read>,
    ) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            if !input.buffer().contains(&b'\n') {
                out.flush()?;
            }
            line.clear();
            input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                break;
            }
            match parse_line(&line) {
                Ok(Some(question)) => self.question(out, question)?,
                Ok(None) => {}
                Err(why) => {
                    // In the order of the lines, where both go to one terminal.
                    out.flush()?;
                    self.misread += 1;
                    if self.misread <= MAX_TOLD {
                        cli::complain(&format!("line {number}: {why:#}"));
                    }
                    if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
                        input.skip_until(b'\n')?;
                    }
                }
            }
        }
        Ok(())
    }

    fn exit(&self) -> Exit {
        let Self {
            unexpected,
            judged,
            misread,
            ..
        } = self;
        let otherwise = match misread {
            0 => Exit::SUCCESS,
            _ => Exit::USAGE,
        };
        if *judged == 0 && *misread == 0 {
            cli::complain(
                "there is no flow to judge: give --flow, or a JSON object a line on standard input",
            );
        }
        if *misread > MAX_TOLD {
            cli::complain(&format!("{misread} lines are no flows"));
        }
        if *unexpected == 0 {
            return otherwise;
        }
        let (flows, were) = if *judged == 1 {
            ("flow", "is")
        } else {
            ("flows", "are")
        };
        cli::complain(&format!(
            "{unexpected} of {judged} {flows} {were} not decided as expected"
        ));
        match otherwise {
            Exit::SUCCESS => Exit::FINDINGS,
            worse => worse,
        }
    }
}

/// `None` for a line of white space.
fn parse_line(line: &[u8]) -> anyhow::Result<Option<Question>> {
    if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
        return Err(anyhow!("longer than {MAX_LINE} bytes"));
    }
    let text = str::from_utf8(line)?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(Question::json(text)?))
}
