//! The fuzz targets' properties over their committed corpora. What the targets find becomes a file there, and so a
//! test.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets are crates of their own, and this is theirs too")]
mod properties;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

/// A target's committed inputs.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(FUZZ).join("corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("the folder can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// Runs one target's property over its corpus; every input that breaks it is named.
fn hold(target: &str) {
    let (_, property) =
        properties::ALL.into_iter().find(|(name, _)| *name == target).expect("it is a target");
    let broken: Vec<_> = corpus(target)
        .into_iter()
        .filter(|path| {
            let input = std::fs::read(path).expect("an input can be read");
            catch_unwind(|| property(&input)).is_err()
        })
        .collect();
    assert!(broken.is_empty(), "the property {target} does not hold for {broken:#?}");
}

macro_rules! smoke {
    ($($target:ident)+) => {
        $(
            #[test]
            fn $target() {
                hold(stringify!($target));
            }
        )+

        const SMOKED: &[&str] = &[$(stringify!($target)),+];
    };
}

smoke! { vendor_json retry_after settings task_ids durations }

#[test]
fn every_target_has_its_property_its_corpus_and_its_smoke() {
    let manifest = std::fs::read_to_string(Path::new(FUZZ).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let targets: BTreeSet<_> =
        manifest["bin"].as_array().unwrap().iter().map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(targets, SMOKED.iter().copied().collect());
    assert_eq!(targets, properties::ALL.into_iter().map(|(name, _)| name).collect());
    let folders = std::fs::read_dir(Path::new(FUZZ).join("corpus")).unwrap();
    let folders: Vec<_> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(targets, folders.iter().map(String::as_str).collect());
    for target in targets {
        let source =
            std::fs::read_to_string(Path::new(FUZZ).join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(source.contains(&format!("properties::{target}(data)")), "{target} checks something else");
    }
}
