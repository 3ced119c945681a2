//! A panic in a world is what does not fit, too.

use std::cell::RefCell;
use std::panic;
use std::rc::Rc;
use std::sync::Once;

use super::world::World;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// While it lives, panics of this thread are violations of its world.
pub struct Watched(());

pub fn watch(world: &Rc<World>) -> Watched {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            let world = WORLD.try_with(|world| world.try_borrow().ok()?.clone()).ok().flatten();
            let Some(world) = world else { return others(panicked) };
            world.violate(format_args!("an actor panicked: {panicked}"));
            // A release build ends behind this: what repeats it is told now.
            eprintln!("seed {}: {panicked}", world.seed);
        }));
    });
    WORLD.with_borrow_mut(|watched| *watched = Some(world.clone()));
    Watched(())
}

impl Drop for Watched {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|watched| *watched = None);
    }
}
