//! Folders are layers, and imports point downward only: read from the sources themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, File, ItemFn, ItemMod, ItemUse, UseTree};

/// What each part of the crate may import besides itself.
const LAYERS: [(&str, &[&str]); 18] = [
    ("types", &[]),
    ("clock", &[]),
    ("kill_point", &[]),
    ("planted", &[]),
    ("collections", &[]),
    ("alike", &[]),
    ("protocol", &["types", "clock"]),
    ("error", &["protocol", "types"]),
    ("filter", &["protocol"]),
    ("store", &["filter", "protocol", "clock", "kill_point", "planted", "types"]),
    ("client", &["protocol", "clock", "types", "collections"]),
    (
        "actors",
        &[
            "store",
            "client",
            "filter",
            "protocol",
            "error",
            "clock",
            "kill_point",
            "types",
            "planted",
            "collections",
            "alike",
        ],
    ),
    ("config", &["protocol", "types"]),
    ("fatal", &["actors", "config", "store"]),
    ("plan", &["actors", "config", "fatal", "filter", "store"]),
    ("extension", &["actors", "client", "config", "error"]),
    ("broker", &["actors", "config", "extension", "fatal", "plan", "store", "clock"]),
    (
        "cli",
        &[
            "actors",
            "client",
            "filter",
            "store",
            "protocol",
            "config",
            "error",
            "extension",
            "fatal",
            "plan",
            "clock",
            "types",
        ],
    ),
];

/// The parts of the crate that one file names, tests left aside.
struct Imports {
    /// Where the file lies: `["actors", "requests", "send"]`.
    module: Vec<String>,
    parts: BTreeSet<String>,
}

impl Imports {
    fn of(file: &Path, src: &Path) -> Self {
        let inside = file.strip_prefix(src).unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().is_some_and(|name| name == "mod" || name == "lib" || name == "main") {
            module.pop();
        }
        let mut imports = Self { module, parts: BTreeSet::new() };
        let parsed: File = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
        imports.visit_file(&parsed);
        imports
    }

    /// Notes the part that a path leads to, if it begins with `crate`, `super` or `self`.
    fn note<'a>(&mut self, path: impl Iterator<Item = &'a syn::Ident>) {
        let mut at = None;
        for ident in path {
            at = Some(match (at, ident.to_string().as_str()) {
                (None, "crate") => Vec::new(),
                (None, "self") => self.module.clone(),
                (from, "super") => {
                    let mut from = from.unwrap_or_else(|| self.module.clone());
                    from.pop();
                    from
                }
                (None, _) => return,
                (Some(mut from), name) => {
                    from.push(name.to_owned());
                    from
                }
            });
        }
        self.parts.extend(at.and_then(|path| path.into_iter().next()));
    }

    fn note_tree<'a>(&mut self, tree: &'a UseTree, mut before: Vec<&'a syn::Ident>) {
        match tree {
            UseTree::Path(path) => {
                before.push(&path.ident);
                self.note_tree(&path.tree, before);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(tree, before.clone());
                }
            }
            UseTree::Name(name) => self.note(before.into_iter().chain([&name.ident])),
            UseTree::Rename(rename) => self.note(before.into_iter().chain([&rename.ident])),
            UseTree::Glob(_) => self.note(before.into_iter()),
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.module.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.note_tree(&item.tree, Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(path.segments.iter().map(|segment| &segment.ident));
        visit::visit_path(self, path);
    }
}

pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

/// Every source file but those that only tests see.
pub fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if matches!(name, "tests" | "testing" | "simulation" | "bin" | "fixtures" | "golden") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_point_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 50, "the sources are read");
    let known: BTreeSet<&str> = LAYERS.iter().map(|(layer, _)| *layer).collect();
    let mut wrong = Vec::new();
    for file in files {
        let imports = Imports::of(&file, &src);
        let Some(layer) = imports.module.first() else { continue }; // main.rs and lib.rs see everything
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == layer) else {
            wrong.push(format!("{} belongs to no layer", file.display()));
            continue;
        };
        for part in &imports.parts {
            let part = part.as_str();
            if part != layer && known.contains(part) && !allowed.contains(&part) {
                wrong.push(format!("{} imports {part}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reader_of_imports_sees_every_way_to_write_one() {
    let source = "
        use crate::store::{self, file::StoreFiles};
        use super::super::client as c;
        fn f() { crate::cli::run(); let _ = super::own(); }
        mod inner { use super::super::super::config; }
        #[cfg(test)] mod tests { use crate::fatal; }
    ";
    let module = ["actors", "requests"].map(str::to_owned).into();
    let mut imports = Imports { module, parts: BTreeSet::new() };
    imports.visit_file(&syn::parse_str(source).unwrap());
    let parts: Vec<_> = imports.parts.iter().map(String::as_str).collect();
    assert_eq!(parts, ["actors", "cli", "client", "config", "store"]);
}
