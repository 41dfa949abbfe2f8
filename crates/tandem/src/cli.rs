//! The command line: the flags of OpenSIPS for the server, sub-commands for everything else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A SIP proxy and registrar whose nodes talk to each other. Runs opensips.cfg.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, args_conflicts_with_subcommands = true, disable_version_flag = true)]
pub(crate) struct Cli {
    /// What to do; the server when absent.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a script: every error at once, and what is allowed but doubtful.
    Check(CheckArgs),
    /// Serve an editor over standard input and output (Language Server Protocol).
    Lsp(LspArgs),
    /// Run the unit tests of scripts: every *.test file below the given folders.
    Test(TestArgs),
    /// Start three nodes on loopback and show what they do for each other.
    Demo(DemoArgs),
    /// Run a management command on a running node.
    Ctl(CtlArgs),
    /// Create, check or upgrade OpenSIPS' tables in a database.
    Db(DbArgs),
}

/// `tandem db`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DbArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: DbAction,
}

/// What to do with a database.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DbAction {
    /// Create the tables that are missing; what is there stays as it is.
    Init(DbTarget),
    /// Compare tables, columns and versions with what OpenSIPS 2.4 to 4.0 has.
    Check(DbTarget),
    /// Add the columns of OpenSIPS 4.0 to tables of older releases, which those releases then refuse.
    Migrate(DbTarget),
}

/// The database `tandem db` works on.
#[derive(Clone, Debug, Args)]
pub(crate) struct DbTarget {
    /// mysql://user:password@host/database, postgres://user:password@host/database or sqlite:///path.
    #[arg(env = "TANDEM_DB_URL", hide_env_values = true)]
    pub(crate) url: String,
    /// Only these tables, separated by commas; all by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) tables: Vec<String>,
}

/// `tandem test`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TestArgs {
    /// Folders and test files.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,
    /// Only tests whose FILE: NAME contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Print the names of the tests and run none.
    #[arg(long)]
    pub(crate) list: bool,
    /// Draw what was sent for tests that pass, too, and print their logs.
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report as JUnit XML to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Print which lines of the scripts ran.
    #[arg(long)]
    pub(crate) coverage: bool,
    /// Write which lines of the scripts ran to this file, as lcov does.
    #[arg(long, value_name = "FILE")]
    pub(crate) lcov: Option<PathBuf>,
    /// Test files run at a time; as many as processors by default.
    #[arg(long, short = 'j', value_name = "COUNT")]
    pub(crate) jobs: Option<usize>,
    /// Seconds of real time that the tests of one file may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    /// Run this file in this process and print the report for the parent process.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) one_file: Option<PathBuf>,
}

/// `tandem demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave the cluster running.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Folder for configuration, databases and logs; a temporary one by default.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `tandem ctl`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CtlArgs {
    /// The node: http://host:port/mi, fifo:/path, udp:host:port or unix:/path.
    #[arg(long, env = "TANDEM_URL", default_value = "http://127.0.0.1:8888/mi")]
    pub(crate) url: String,
    /// Print the JSON as it came.
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) timeout: u64,
    /// The command, for example clusterer:list. `which` lists all, `help COMMAND` tells about one, `reload` reads the script
    /// again.
    pub(crate) command: String,
    /// Its parameters: NAME=VALUE, or VALUE by position; a VALUE that is JSON is taken as such.
    pub(crate) params: Vec<String>,
}

/// The flags of OpenSIPS, so that existing unit files work.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The script.
    #[arg(short = 'f', value_name = "FILE", default_value = "/etc/tandem/opensips.cfg")]
    pub(crate) file: PathBuf,
    /// Check the script and exit; opens no sockets.
    #[arg(short = 'C')]
    pub(crate) check_only: bool,
    /// The same (older name).
    #[arg(short = 'c', hide = true)]
    pub(crate) check_only_old: bool,
    /// Stay in the foreground (the default unless -P is given).
    #[arg(short = 'F')]
    pub(crate) foreground: bool,
    /// Log to stderr whatever the script says.
    #[arg(short = 'E')]
    pub(crate) log_stderr: bool,
    /// Listen on this address instead of those of the script: [proto:]host[:port]. May be repeated.
    #[arg(short = 'l', value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Write the process id to this file and go to the background.
    #[arg(short = 'P', value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Run as this user once the sockets are open.
    #[arg(short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Run as this group once the sockets are open.
    #[arg(short = 'g', value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Worker threads; as many as processors by default.
    #[arg(short = 'n', value_name = "COUNT")]
    pub(crate) workers: Option<usize>,
    /// TCP workers: accepted, no effect (the workers serve all transports).
    #[arg(short = 'N', value_name = "COUNT")]
    pub(crate) tcp_workers: Option<usize>,
    /// Shared memory in MB: accepted, no effect (memory is taken as needed).
    #[arg(short = 'm', value_name = "MB")]
    pub(crate) shared_memory: Option<u32>,
    /// Private memory in MB: accepted, no effect.
    #[arg(short = 'M', value_name = "MB")]
    pub(crate) private_memory: Option<u32>,
    /// Working directory.
    #[arg(short = 'w', value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// New root directory, entered once the sockets are open.
    #[arg(short = 't', value_name = "DIR")]
    pub(crate) chroot: Option<PathBuf>,
    /// Pipe the script through this command first (m4, for example).
    #[arg(short = 'p', value_name = "COMMAND")]
    pub(crate) preprocessor: Option<String>,
    /// Set $argv(NAME): NAME=VALUE.
    #[arg(short = 'o', value_name = "NAME=VALUE")]
    pub(crate) options: Vec<String>,
    /// Stay in the foreground with one worker and debug output.
    #[arg(short = 'D')]
    pub(crate) debug: bool,
    /// One more log level; may be repeated.
    #[arg(short = 'd', action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Rules to apply; detected from the script by default.
    #[arg(long, value_enum)]
    pub(crate) dialect: Option<DialectArg>,
    /// Load although functions or modules of the script are missing here; they fail when called.
    #[arg(long)]
    pub(crate) permissive: bool,
    /// Seconds that suspended scripts get to finish at SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) drain: u64,
    /// Print the version.
    #[arg(short = 'V', long = "version")]
    pub(crate) version: bool,
}

/// `tandem check`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    /// The script.
    pub(crate) file: PathBuf,
    /// Output form.
    #[arg(long, value_enum, default_value_t = OutputForm::Text)]
    pub(crate) format: OutputForm,
    /// Rules to apply; detected from the script by default.
    #[arg(long, value_enum)]
    pub(crate) dialect: Option<DialectArg>,
    /// Missing functions and modules are warnings.
    #[arg(long)]
    pub(crate) permissive: bool,
    /// Pipe the script through this command first (m4, for example).
    #[arg(short = 'p', value_name = "COMMAND")]
    pub(crate) preprocessor: Option<String>,
    /// Exit with 1 on warnings, too (for CI).
    #[arg(long, alias = "strict")]
    pub(crate) deny_warnings: bool,
}

/// `tandem lsp`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LspArgs {
    /// Rules to apply; detected from each script by default.
    #[arg(long, value_enum)]
    pub(crate) dialect: Option<DialectArg>,
    /// Missing functions and modules are warnings.
    #[arg(long)]
    pub(crate) permissive: bool,
    /// Accepted, no effect: editors pass it, and standard input and output are the only way anyhow.
    #[arg(long, hide = true)]
    pub(crate) stdio: bool,
}

/// How to print findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A dialect on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectArg {
    /// OpenSIPS 2.4.
    #[value(name = "2.4")]
    V2_4,
    /// OpenSIPS 3.x and 4.0.
    #[value(name = "4.0", aliases = ["3", "3.0", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "4"])]
    V4_0,
}

impl From<DialectArg> for tandem_script::ast::Dialect {
    fn from(dialect: DialectArg) -> Self {
        match dialect {
            DialectArg::V2_4 => Self::V2_4,
            DialectArg::V4_0 => Self::V4_0,
        }
    }
}
