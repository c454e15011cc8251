//! Puts a misbehaving plugin into a folder, to try things by hand: `misbehave DIR NAME "step 3: segv"`.

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name, behaviour] = arguments.as_slice() else {
        panic!("misbehave DIR NAME BEHAVIOUR");
    };
    println!("{}", finetune_tests::misbehaving::place(Path::new(folder), name, behaviour).display());
}
