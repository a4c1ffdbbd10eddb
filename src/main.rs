//! The `alexnet` command line.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
