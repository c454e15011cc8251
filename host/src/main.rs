use std::process::ExitCode;

fn main() -> ExitCode {
    finetune_host::cli::main()
}
