//! Every input that fuzzing kept goes through the same checks again. See `fuzz/checks.rs`.

use std::path::Path;

#[path = "../../fuzz/checks.rs"]
mod checks;

#[test]
fn what_fuzzing_kept_passes_its_checks() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in checks::ALL {
        let mut inputs = 0;
        for file in std::fs::read_dir(corpora.join(name)).expect("a corpus for each check") {
            let path = file.expect("it can be listed").path();
            println!("{}", path.display()); // shown when it fails
            check(&std::fs::read(&path).expect("it can be read"));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}

/// Seeds cut at every byte, and with every byte changed: a fuzzing run of no luck at all.
#[test]
fn seeds_cut_or_changed_anywhere_pass_the_checks() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in checks::ALL {
        for file in std::fs::read_dir(corpora.join(name)).expect("a corpus for each check") {
            let path = file.expect("it can be listed").path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-")) {
                continue;
            }
            println!("{}", path.display());
            let seed = std::fs::read(&path).expect("it can be read");
            for at in 0..seed.len() {
                check(&seed[..at]);
                for change in [0x00, 0x7F, 0xFF, seed[at] ^ 1, seed[at] ^ 0x80] {
                    let mut changed = seed.clone();
                    changed[at] = change;
                    check(&changed);
                }
            }
        }
    }
}
