//! The built-in OCI runtime as a program of its own: for the contract tests, and under any other engine.

fn main() -> std::process::ExitCode {
    executor::builtin::main(std::env::args_os().skip(1))
}
