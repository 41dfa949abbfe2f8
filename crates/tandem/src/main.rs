//! The program: `tandem -f opensips.cfg`, and its sub-commands. It parses the command line and starts what the libraries
//! provide; no protocol logic here.

mod check;
mod cli;
mod ctl;
mod db;
mod demo;
mod logging;
mod lsp;
mod serve;
mod test;

use std::process::ExitCode;

use clap::Parser;

// The server allocates and frees from several threads at once for weeks; jemalloc keeps that cheap and unfragmented.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        Some(cli::Command::Check(args)) => check::run(&args),
        Some(cli::Command::Lsp(args)) => lsp::run(&args),
        Some(cli::Command::Test(args)) => test::run(&args),
        Some(cli::Command::Demo(args)) => demo::run(&args),
        Some(cli::Command::Ctl(args)) => ctl::run(&args),
        Some(cli::Command::Db(args)) => db::run(&args),
        None => serve::run(&cli.server),
    }
}
