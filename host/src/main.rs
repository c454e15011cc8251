fn main() -> ! {
    finetune_host::cli::main()
}
