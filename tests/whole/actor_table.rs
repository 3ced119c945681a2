//! The table of actors in ARCHITECTURE.md, checked against the sources, and the picture of it in docs/actors.svg.
//!
//! `PAINT=1 cargo test --test whole actor_table` paints the picture anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{GenericArgument, ItemImpl, ItemMod, PathArguments, PathSegment, Type};

use crate::layers::{is_for_tests, sources};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What each actor takes, by its handlers.
#[derive(Default)]
struct Handlers(BTreeMap<String, BTreeSet<String>>);

impl Handlers {
    fn of_sources() -> Self {
        let mut files = Vec::new();
        sources(&root().join("src/actors"), &mut files);
        let mut handlers = Self::default();
        for file in files {
            handlers.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
        }
        handlers
    }
}

fn name_of(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    Some(path.path.segments.last()?.ident.to_string())
}

fn argument_of(segment: &PathSegment) -> Option<String> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) => name_of(ty),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Handlers {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let implemented = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
        if let (Some(implemented), Some(actor)) = (implemented, name_of(&item.self_ty)) {
            match implemented.ident.to_string().as_str() {
                "Actor" => {
                    self.0.entry(actor).or_default();
                }
                "Handler" => self.0.entry(actor).or_default().extend(argument_of(implemented)),
                _ => {}
            }
        }
    }
}

/// A row of the table.
struct Row {
    takes: BTreeSet<String>,
    sends: BTreeSet<String>,
}

/// The words in backquotes.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| Actor | Owns | Takes | Sends |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 4, "{line}");
        let name = quoted(cells[0]).pop_first().unwrap();
        // What it starts is no message.
        let sends = cells[3].split(" (starts ").next().unwrap();
        (name, Row { takes: quoted(cells[2]), sends: quoted(sends) })
    });
    rows.collect()
}

#[test]
fn table_names_every_actor_and_all_that_it_takes() {
    let (handlers, table) = (Handlers::of_sources().0, table());
    assert!(handlers.len() > 25, "the sources are read");
    let mut wrong = Vec::new();
    for (actor, taken) in &handlers {
        let Some(row) = table.get(actor) else {
            wrong.push(format!("{actor} has no row"));
            continue;
        };
        wrong.extend(taken.difference(&row.takes).map(|message| format!("{actor} takes {message}, too")));
        wrong.extend(row.takes.difference(taken).map(|message| format!("{actor} does not take {message}")));
    }
    wrong.extend(
        table.keys().filter(|row| !handlers.contains_key(*row)).map(|row| format!("{row} is no actor")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_an_actor_sends_another_takes() {
    let (handlers, table) = (Handlers::of_sources().0, table());
    let taken: BTreeSet<&String> = handlers.values().flatten().collect();
    for (actor, row) in &table {
        let unknown: Vec<_> = row.sends.iter().filter(|message| !taken.contains(message)).collect();
        assert!(unknown.is_empty(), "{actor} sends what nobody takes: {unknown:?}");
    }
}

/// Where the actors that messages pass stand in the picture: column and row, so that no line crosses a box.
const PLACES: [(&str, f64, f64); 16] = [
    ("Connection", 0.3, 3.0),
    ("ConsumerGroup", 0.3, 0.6),
    ("Producers", 0.3, 6.4),
    ("DedupWindow", 0.95, 1.3),
    ("TransactionChecker", 1.2, 6.4),
    ("RetryRouter", 1.4, 0.0),
    ("TopicQueue", 2.0, 3.0),
    ("DelayScheduler", 1.88, 6.4),
    ("DeadLetterReplay", 2.55, 0.0),
    ("Compactor", 3.1, 1.0),
    ("CommitLogWriter", 3.2, 2.5),
    ("Dispatcher", 3.02, 4.7),
    ("TimerScheduler", 2.75, 6.4),
    ("Flusher", 4.1, 3.7),
    ("Retention", 5.0, 0.2),
    ("KeyIndex", 4.9, 5.2),
];
const COLUMN: f64 = 300.0;
const LINE: f64 = 115.0;
const WIDE: i32 = 164;
const HIGH: i32 = 40;

fn picture() -> String {
    let table = table();
    let middle = |column: f64, row: f64| (30 + WIDE / 2 + (column * COLUMN) as i32, 40 + (row * LINE) as i32);
    let mut edges: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for (from, (sender, ..)) in PLACES.iter().enumerate() {
        for (to, (taker, ..)) in PLACES.iter().enumerate() {
            let messages = table[*sender].sends.intersection(&table[*taker].takes);
            let messages: Vec<&str> = messages.filter(|_| from != to).map(String::as_str).collect();
            if !messages.is_empty() {
                edges.insert((from, to), messages);
            }
        }
    }
    let (right, bottom) = middle(5.0, 6.4);
    let (width, height) = (right + WIDE / 2 + 30, bottom + 50);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"11\">\n\
         <!-- Painted from the table of actors in ARCHITECTURE.md by tests/whole/actor_table.rs. -->\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0 8 4 0 8z\" fill=\"#567\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let boxes = PLACES.iter().map(|(_, column, row)| Area::of_box(middle(*column, *row)));
    let mut taken: Vec<Area> = boxes.collect();
    // Writing to a string cannot fail.
    let mut words = String::new();
    for ((from, to), messages) in &edges {
        let (_, from_column, from_row) = PLACES[*from];
        let (_, to_column, to_row) = PLACES[*to];
        let ((x1, y1), (x2, y2)) = (middle(from_column, from_row), middle(to_column, to_row));
        let (start, end) = (edge_of((x1, y1), (x2, y2)), edge_of((x2, y2), (x1, y1)));
        let (dx, dy) = (f64::from(end.0 - start.0), f64::from(end.1 - start.1));
        let length = dx.hypot(dy).max(1.0);
        // Both ways between two actors are bent apart.
        let bend = if edges.contains_key(&(*to, *from)) { 52.0 } else { 0.0 };
        let (bx, by) = (-dy / length * bend, dx / length * bend);
        let (mx, my) = (f64::from(start.0) + dx / 2.0 + bx, f64::from(start.1) + dy / 2.0 + by);
        let _ = writeln!(
            svg,
            "<path d=\"M{} {} Q{mx:.0} {my:.0} {} {}\" fill=\"none\" stroke=\"#89a\" marker-end=\"url(#tip)\"/>",
            start.0, start.1, end.0, end.1
        );
        // Where along the line its words have room: in the middle if they can.
        let line = [start, (mx as i32, my as i32), end].map(|(x, y)| (f64::from(x), f64::from(y)));
        let label = ALONG
            .iter()
            .map(|along| Label::at(point_of(line, *along), bx, messages))
            .find(|label| !taken.iter().any(|area| area.meets(&label.area)))
            .unwrap_or_else(|| panic!("no room for {messages:?}: move an actor in PLACES"));
        for (number, message) in messages.iter().enumerate() {
            let _ = writeln!(
                words,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"{}\" fill=\"#246\" stroke=\"#fff\" stroke-width=\"3\" \
                 paint-order=\"stroke\">{message}</text>",
                label.x,
                label.area.top + LETTER_HIGH * (number as f64 + 0.8),
                label.anchor
            );
        }
        taken.push(label.area);
    }
    svg += &words;
    for (name, column, row) in PLACES {
        let (x, y) = middle(column, row);
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{WIDE}\" height=\"{HIGH}\" rx=\"6\" fill=\"#eef4fa\" stroke=\"#356\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"13\" font-weight=\"bold\">{name}</text>",
            x - WIDE / 2,
            y - HIGH / 2,
            y + 4
        );
    }
    svg + "</svg>\n"
}

/// Parts of a line at which its words may stand, the best first.
const ALONG: [f64; 11] = [0.5, 0.45, 0.55, 0.4, 0.6, 0.34, 0.66, 0.28, 0.72, 0.22, 0.78];
/// About as much as a letter takes.
const LETTER_WIDE: f64 = 6.6;
const LETTER_HIGH: f64 = 12.0;

/// The point of a bent line from the first to the last of three.
fn point_of([from, bend, to]: [(f64, f64); 3], along: f64) -> (f64, f64) {
    let (a, b, c) = ((1.0 - along).powi(2), 2.0 * along * (1.0 - along), along.powi(2));
    (a * from.0 + b * bend.0 + c * to.0, a * from.1 + b * bend.1 + c * to.1)
}

/// Part of the picture that words or a box take.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    fn of_box((x, y): (i32, i32)) -> Self {
        let (x, y) = (f64::from(x), f64::from(y));
        let (wide, high) = (f64::from(WIDE) / 2.0, f64::from(HIGH) / 2.0);
        Self { left: x - wide, top: y - high, right: x + wide, bottom: y + high }
    }

    /// Whether the eye would take both for one.
    fn meets(&self, other: &Self) -> bool {
        const APART: f64 = 5.0;
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom + APART
            && other.top < self.bottom + APART
    }
}

/// The words of a line.
struct Label {
    x: f64,
    anchor: &'static str,
    area: Area,
}

impl Label {
    /// Beside a line that is bent to the side, on any other.
    fn at((x, y): (f64, f64), bent: f64, messages: &[&str]) -> Self {
        let wide = LETTER_WIDE * messages.iter().map(|message| message.len()).max().unwrap_or(0) as f64;
        let high = LETTER_HIGH * messages.len() as f64;
        let (anchor, x, left) = match bent {
            _ if bent > 20.0 => ("start", x - 6.0, x - 6.0),
            _ if bent < -20.0 => ("end", x + 6.0, x + 6.0 - wide),
            _ => ("middle", x, x - wide / 2.0),
        };
        let (top, right) = (y - high / 2.0, left + wide);
        Self { x, anchor, area: Area { left, top, right, bottom: top + high } }
    }
}

/// Where the line from the middle of a box to `there` leaves the box.
fn edge_of((x, y): (i32, i32), there: (i32, i32)) -> (i32, i32) {
    let (dx, dy) = (f64::from(there.0 - x), f64::from(there.1 - y));
    let across = f64::from(WIDE / 2) / dx.abs().max(0.001);
    let down = f64::from(HIGH / 2) / dy.abs().max(0.001);
    let part = across.min(down).min(1.0);
    (x + (dx * part) as i32, y + (dy * part) as i32)
}

#[test]
fn picture_shows_the_table() {
    let path: PathBuf = root().join("docs/actors.svg");
    let painted = picture();
    if std::env::var_os("PAINT").is_some() {
        fs::write(&path, &painted).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == painted, "docs/actors.svg is stale: PAINT=1 cargo test --test whole actor_table");
}
