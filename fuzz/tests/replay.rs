//! Every file of every corpus, without a fuzzer: what was found once stays found.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "../../protocol/tests/wire/hex.rs"]
mod hex;

#[cfg(test)]
mod replay {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::hex;

    fn package() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        let files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty(), "{} is empty", directory.display());
        files
    }

    fn replay(name: &str, target: fn(&[u8])) {
        for file in files(&package().join("corpus").join(name)) {
            // A panic names no file; the last line that was captured does.
            println!("{}", file.display());
            let data = fs::read(&file).unwrap();
            target(&data);
            // As libFuzzer would go on: cut short, and with a byte more.
            target(data.split_last().map_or(&[], |(_, shorter)| shorter));
            target(&[&data[..], &[0]].concat());
        }
    }

    /// A test a target.
    macro_rules! targets {
        ($($name:ident)+) => {
            const TARGETS: &[&str] = &[$(stringify!($name)),+];

            mod the_corpus_holds_of {
                $(#[test]
                fn $name() {
                    super::replay(stringify!($name), mountwarden_fuzz::$name);
                })+
            }
        };
    }

    targets! {
        frame
        fusermount
        options
        policy_parse
    }

    /// `MOUNTWARDEN_WRITE_CORPUS=1` writes what is missing.
    #[test]
    fn every_golden_vector_is_a_seed_of_frame() {
        let corpus = package().join("corpus/frame");
        for vector in files(&package().join("../protocol/tests/golden")) {
            let frame = hex::parse(&fs::read_to_string(&vector).unwrap());
            let seed = [&[255], &frame[..]].concat();
            let file = corpus.join(vector.file_stem().unwrap());
            if std::env::var_os("MOUNTWARDEN_WRITE_CORPUS").is_some_and(|value| value == "1") {
                fs::write(&file, &seed).unwrap();
            }
            assert!(
                fs::read(&file).is_ok_and(|data| data == seed),
                "{} is not the golden vector of that name",
                file.display()
            );
        }
    }

    #[test]
    fn every_target_has_a_function_a_corpus_and_a_dictionary() {
        let names = |directory: &str| -> BTreeSet<_> {
            files(&package().join(directory))
                .iter()
                .map(|path| path.file_stem().unwrap().to_owned())
                .collect()
        };
        let targets: BTreeSet<_> = TARGETS.iter().map(Into::into).collect();
        for directory in ["fuzz_targets", "corpus", "dictionaries"] {
            assert_eq!(names(directory), targets, "{directory}");
        }
    }
}
