//! Dependencies run one way: read from the `use` lines and paths of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, UseTree, Visibility};

/// Modules of a crate from the lowest to the highest: each may name itself and those before it.
const ENGINE: &[&str] = &[
    "text",
    "clock",
    "traceparent",
    "panics",
    "wire",
    "error",
    "policy",
    "route",
    "worker",
    "plan",
    "servlet",
    "host",
    "client",
    "server",
    "testing",
];
const SHM: &[&str] = &[
    "sync",
    "fields",
    "width",
    "text",
    "sys",
    "token",
    "word",
    "watch",
    "stats",
    "ring",
    "lock",
    "doorbell",
    "bell",
    "control",
    "plan",
    "placed",
    "participant",
    "join",
    "layout",
    "trace",
    "segment",
    "pool",
    "arena",
    "party",
    "repair",
    "check",
    "metrics",
];

/// A module, as the names that lead to it from the crate's root.
type Module = Vec<String>;

/// The modules that one file names.
#[derive(Default)]
struct Names {
    /// Paths that begin with `crate`, `super`, `self` or a child of the file's module.
    paths: Vec<Vec<String>>,
    /// The names that the file re-exports from its children, each with its path.
    handed_on: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn add(&mut self, tree: &UseTree, before: &[String], hands_on: bool) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.add(&path.tree, &with(path.ident.to_string()), hands_on),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree, before, hands_on)),
            UseTree::Name(name) if hands_on => {
                self.handed_on.insert(name.ident.to_string(), with(name.ident.to_string()));
            }
            UseTree::Name(name) => self.paths.push(with(name.ident.to_string())),
            UseTree::Rename(rename) => self.paths.push(with(rename.ident.to_string())),
            UseTree::Glob(_) => self.paths.push(before.to_vec()),
        }
    }
}

impl Visit<'_> for Names {
    fn visit_item_use(&mut self, item: &ItemUse) {
        self.add(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    /// Modules within a file are its own: tests, seals.
    fn visit_item_mod(&mut self, _: &ItemMod) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && ["crate", "super"].contains(&names[0].as_str()) {
            self.paths.push(names);
        }
        visit::visit_path(self, path);
    }
}

/// A crate's modules, with the modules that each names.
struct Source(BTreeMap<Module, Names>);

impl Source {
    fn of(directory: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(directory);
        let mut modules = BTreeMap::new();
        Self::read(&root, &mut Vec::new(), &mut modules);
        Self(modules)
    }

    fn read(directory: &Path, within: &mut Module, modules: &mut BTreeMap<Module, Names>) {
        for entry in fs::read_dir(directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                within.push(name);
                Self::read(&path, within, modules);
                within.pop();
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let file =
                    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut names = Names::default();
                names.visit_file(&file);
                let own = (!["mod", "lib"].contains(&name.as_str())).then_some(name);
                modules.insert(within.iter().cloned().chain(own).collect(), names);
            }
        }
    }

    /// The module that a path from the crate's root names, or names something of.
    fn module_of(&self, path: &[String]) -> Module {
        let mut module = Module::new();
        for (index, name) in path.iter().enumerate() {
            let child: Module = module.iter().cloned().chain([name.clone()]).collect();
            if self.0.contains_key(&child) {
                module = child;
            } else if let Some(target) = self.0.get(&module).and_then(|names| names.handed_on.get(name))
                && target.len() > 1
            {
                let rest = target.iter().chain(&path[index + 1..]).cloned();
                return self.module_of(&module.iter().cloned().chain(rest).collect::<Vec<_>>());
            } else {
                break;
            }
        }
        module
    }

    /// The modules that a module names, but for itself and the crate's root.
    fn arrows(&self, module: &Module) -> BTreeSet<Module> {
        let absolute = |path: &Vec<String>| -> Option<Vec<String>> {
            let ups = path.iter().take_while(|name| *name == "super").count();
            match path[0].as_str() {
                "crate" => Some(path[1..].to_vec()),
                "super" => Some(module[..module.len() - ups].iter().chain(&path[ups..]).cloned().collect()),
                _ => {
                    let child: Vec<String> = module.iter().chain(path).cloned().collect();
                    self.0.contains_key(&child[..=module.len()]).then_some(child)
                }
            }
        };
        let named = self.0[module].paths.iter().filter_map(absolute).map(|path| self.module_of(&path));
        named.filter(|to| to != module && !to.is_empty()).collect()
    }

    /// Arrows to a higher module of that order, or to a module that is not in it.
    fn rising(&self, order: &[&str]) -> Vec<String> {
        let rank = |module: &Module| order.iter().position(|name| *name == module[0]);
        let ranked =
            self.0.keys().filter(|module| module.first().is_some_and(|name| order.contains(&name.as_str())));
        let all = ranked.flat_map(|from| self.arrows(from).into_iter().map(move |to| (from, to)));
        let rises = all.filter(|(from, to)| rank(to).is_none_or(|to| Some(to) > rank(from)));
        rises.map(|(from, to)| format!("{} names {}", from.join("::"), to.join("::"))).collect()
    }

    /// Modules that name each other, over others perhaps: those from which no way leads out of circles.
    fn circles(&self) -> Vec<String> {
        let mut left: BTreeMap<&Module, BTreeSet<Module>> =
            self.0.keys().map(|module| (module, self.arrows(module))).collect();
        while let Some(free) = left.iter().find(|(_, to)| !to.iter().any(|to| left.contains_key(to))) {
            let free = *free.0;
            left.remove(free);
        }
        left.keys().map(|module| module.join("::")).collect()
    }
}

#[test]
fn the_engines_modules_name_lower_ones_only() {
    let engine = Source::of("engine/src");
    assert_eq!(engine.rising(ENGINE), Vec::<String>::new());
    let within_parties = engine.circles();
    assert_eq!(within_parties, Vec::<String>::new(), "these name each other, directly or in a circle");
}

#[test]
fn the_modules_of_shared_memory_name_lower_ones_only() {
    assert_eq!(Source::of("shm/src").rising(SHM), Vec::<String>::new());
}

/// The order lists exactly the modules of the folders, so that a new module must be added to it.
#[test]
fn every_module_has_its_place_in_the_order() {
    for (directory, order, beside) in
        [("engine/src", ENGINE, &["crash"][..]), ("shm/src", SHM, &["crash", "model"])]
    {
        let modules: BTreeSet<String> =
            Source::of(directory).0.into_keys().filter_map(|module| module.into_iter().next()).collect();
        let known: BTreeSet<String> = order.iter().chain(beside).map(ToString::to_string).collect();
        assert_eq!(modules, known, "{directory}");
    }
}
