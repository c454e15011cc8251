//! The kernels' source as one text, for compilers that find no files.

/// Every file of `source` but CUDA's own, by the name that others include it under.
const FILES: &[(&str, &str)] = &[
    ("activation.h", include_str!("source/activation.h")),
    ("all.h", include_str!("source/all.h")),
    ("attention.h", include_str!("source/attention.h")),
    ("dialect.h", include_str!("source/dialect.h")),
    ("elementwise.h", include_str!("source/elementwise.h")),
    ("emulator.h", include_str!("source/emulator.h")),
    ("erf.h", include_str!("source/erf.h")),
    ("index.h", include_str!("source/index.h")),
    ("loss.h", include_str!("source/loss.h")),
    ("norm.h", include_str!("source/norm.h")),
    ("numbers.h", include_str!("source/numbers.h")),
    ("optim.h", include_str!("source/optim.h")),
    ("prelude_host.h", include_str!("source/prelude_host.h")),
    ("prelude_metal.h", include_str!("source/prelude_metal.h")),
    ("product.h", include_str!("source/product.h")),
    ("quant.h", include_str!("source/quant.h")),
    ("random.h", include_str!("source/random.h")),
    ("reduce.h", include_str!("source/reduce.h")),
    ("rope.h", include_str!("source/rope.h")),
    ("scatter.h", include_str!("source/scatter.h")),
    ("softmax.h", include_str!("source/softmax.h")),
];

/// All kernels with that prelude. Each file stands where it is first included.
pub fn text(prelude: &str) -> String {
    let mut text = String::new();
    append("all.h", prelude, &mut Vec::new(), &mut text);
    text
}

fn append(name: &str, prelude: &str, seen: &mut Vec<String>, text: &mut String) {
    let is_other_prelude = name.starts_with("prelude_") && name != prelude;
    if is_other_prelude || seen.iter().any(|other| other == name) {
        return;
    }
    seen.push(name.to_owned());
    let Some((_, contents)) = FILES.iter().find(|(file, _)| *file == name) else { return };
    for line in contents.lines() {
        if let Some(included) = line.strip_prefix("#include \"") {
            append(included.trim_end_matches('"'), prelude, seen, text);
        } else if line != "#pragma once" {
            text.push_str(line);
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that the list lacks would be missing on a Mac only.
    #[test]
    fn the_text_has_every_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernel/source");
        let files =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.collect();
        files.retain(|name| !name.ends_with("_cuda.h"));
        files.sort();
        assert_eq!(files, FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let text = text("prelude_metal.h");
        assert!(!text.contains("#include \""), "an included file stands nowhere");
        assert!(text.find("struct Numbers").unwrap() < text.find("kernel void").unwrap());
    }
}
