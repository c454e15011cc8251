//! The `finetune` host.
