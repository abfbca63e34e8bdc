//! Keeps API keys from the command line, straight in the store's database.

mod changes;
mod credits;
mod failure;
mod global;
mod import;
mod issue;
mod json;
mod list;
mod output;
mod rotate;
mod scan;
mod secret;
mod show;
mod standing;
mod store;
mod table;
mod update;
mod usage;
mod values;
mod veil;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::failure::Failure;
use self::global::Global;
use self::output::Output;

/// Keeps the API keys of a service, straight in its database.
///
/// Running servers notice what is changed here: SQLite within a second, PostgreSQL at once.
#[derive(Parser)]
#[command(name = "tower-api-key", version, after_help = EXIT_STATUS, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  done; the key is valid; no key was found
  1  the key is not valid; a key was found; some lines could not be imported, or some keys not read
  2  an error, told on standard error";

const AFTER_HELP: &str = "\
Exit status:
  0  done; the key is valid; no key was found
  1  the key is not valid; a key was found; some lines could not be imported, or some keys not read
  2  an error, told on standard error

Example:
  export DATABASE_URL=sqlite:keys.db
  tower-api-key issue billing --owner acme --scope orders:read --limit burst=100/60s
  tower-api-key list --owner acme";

#[derive(Subcommand)]
enum Command {
    Issue(issue::Args),
    List(list::Args),
    Show(show::Args),
    Update(update::Args),
    Rotate(rotate::Args),
    Disable(changes::Disable),
    Enable(changes::Enable),
    Revoke(changes::Revoke),
    Credits(credits::Args),
    Usage(usage::UsageArgs),
    Events(usage::EventsArgs),
    Import(import::Args),
    Verify(verify::Args),
    Scan(scan::Args),
    /// Writes a completion script for a shell to standard output
    #[command(after_help = "Example:\n  \
        tower-api-key completions bash > /etc/bash_completion.d/tower-api-key")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What the exit status says where nothing went wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    Bad,
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| misused(&error));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(|error| Failure::caused_by("the program cannot start", &error))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        // Whoever reads has seen enough.
        Ok(Answer::Good) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Ok(Answer::Bad) => ExitCode::from(1),
        Err(Failure::Error(message)) => {
            // A secret may stand where a path, a scope or a name was expected, and errors quote those.
            // Where the message cannot be written, no reader is left.
            let _ = writeln!(io::stderr(), "error: {}", veil::veiled(&message));
            ExitCode::from(2)
        }
    }
}

/// Says how the command is used, as clap does. A secret that was given as an argument is in the
/// shell's history already, and need not get into the log of a build as well.
fn misused(error: &clap::Error) -> ! {
    let message = error.render().to_string();
    if veil::veiled(&message) == message.as_str() {
        error.exit();
    }
    let _ = write!(io::stderr(), "{}", veil::veiled(&message));
    std::process::exit(error.exit_code());
}

async fn run(cli: Cli) -> Result<Answer, Failure> {
    let Cli { global, command } = cli;
    let mut output = Output::new(global.json);
    let answer = match command {
        Command::Issue(args) => issue::run(args, &global, &mut output).await,
        Command::List(args) => list::run(args, &global, &mut output).await,
        Command::Show(args) => show::run(&args, &global, &mut output).await,
        Command::Update(args) => update::run(args, &global, &mut output).await,
        Command::Rotate(args) => rotate::run(&args, &global, &mut output).await,
        Command::Disable(args) => changes::disable(&args, &global, &mut output).await,
        Command::Enable(args) => changes::enable(&args, &global, &mut output).await,
        Command::Revoke(args) => changes::revoke(&args, &global, &mut output).await,
        Command::Credits(args) => credits::run(&args, &global, &mut output).await,
        Command::Usage(args) => usage::usage(&args, &global, &mut output).await,
        Command::Events(args) => usage::events(&args, &global, &mut output).await,
        Command::Import(args) => import::run(&args, &global, &mut output).await,
        Command::Verify(args) => verify::run(&args, &global, &mut output).await,
        Command::Scan(args) => scan::run(&args, &global, &mut output).await,
        Command::Completions { shell } => completions(shell, &mut output),
    }?;
    match output.finish() {
        Ok(()) | Err(Failure::ClosedPipe) => Ok(answer),
        Err(failure) => Err(failure),
    }
}

fn completions(shell: Shell, output: &mut Output) -> Result<Answer, Failure> {
    // Into memory first: clap panics where its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tower-api-key", &mut script);
    output.bytes(&script)?;
    Ok(Answer::Good)
}
