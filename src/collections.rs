//! Hash maps whose order a simulation repeats.

/// A hash map whose order nobody can foresee. In builds for tests it is always the same order: what a seed repeats must not
/// depend on chance of another kind.
#[cfg(not(any(test, feature = "testing")))]
pub type HashMap<K, V> = std::collections::HashMap<K, V>;

/// A hash map, in builds for tests always in the same order.
#[cfg(any(test, feature = "testing"))]
pub type HashMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;
