//! The text form of programs, which is what crosses the plugin boundary.
//!
//! ```text
//! finetune.program 1
//! %0 = input "x" : f32[2,3]
//! %1 = param "weight" : f32[4,3]
//! %2 = state "sum" : f32[2,4]
//! %3 = matmul(%0, %1) {transpose_b = true} : f32[2,4]
//! %4 = add(%2, %3) : f32[2,4]
//! update %2 = %4
//! output "product" = %3
//! end
//! ```
//!
//! One definition a line. Arguments come first; values are numbered in the order of their definition, from
//! `%0`. Attributes that have their default value are not written, so a program that does not use a later
//! attribute stays readable by an earlier reader. The types behind the last colon are those that the op's
//! rule gives; a reader checks them. `#` begins a comment to the end of the line, blank lines are skipped.
//! `end` proves that nothing was cut off.

mod lex;
mod parse;
mod print;

pub use parse::parse;
pub use print::print;

/// The version in the first line.
pub const VERSION: u32 = 1;
/// The most values a program may define; a longer text is refused before it costs memory.
pub const MAX_VALUES: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "finetune.program 1\n\
        %0 = input \"x\" : f32[2,3]\n\
        %1 = param \"we\\\"ight\" : f32[4,3]\n\
        %2 = state \"sum\" : f32[2,4]\n\
        %3 = matmul(%0, %1) {transpose_b = true} : f32[2,4]\n\
        %4 = add(%2, %3) : f32[2,4]\n\
        update %2 = %4\n\
        output \"product\" = %3\n\
        end\n";

    #[test]
    fn printing_is_the_inverse_of_parsing() {
        let program = parse(EXAMPLE).unwrap();
        assert_eq!(print(&program), EXAMPLE);
    }

    #[test]
    fn a_mistake_names_its_line_and_op() {
        let text = EXAMPLE.replace("{transpose_b = true}", "");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.starts_with("line 5: matmul: the summed dimensions are 3 and 4"), "{message}");
    }

    #[test]
    fn a_cut_text_is_refused() {
        let message = parse(EXAMPLE.strip_suffix("end\n").unwrap()).unwrap_err().to_string();
        assert!(message.contains("cut off"), "{message}");
    }
}
