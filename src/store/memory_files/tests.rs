use super::*;

#[test]
fn crash_forgets_what_was_not_flushed() {
    let (files, dir) = (MemoryFiles::new(), Path::new("/d"));
    files.create_dir_all(dir).unwrap();
    let plain = files.open(&dir.join("plain"), OpenMode::CreateNew).unwrap();
    plain.write_all_at(b"kept", 0).unwrap();
    plain.sync().unwrap();
    plain.write_all_at(b"lost", 4).unwrap();
    let mut map = files.create_map(&dir.join("map"), 64).unwrap();
    map.put_u32(0, 1);
    map.put_u32(8, 2);
    map.flush(0..4).unwrap();
    files.sync_dir(dir).unwrap();
    files.open(&dir.join("unnamed"), OpenMode::CreateNew).unwrap();
    drop((plain, map));

    files.crash();
    assert_eq!(files.read(&dir.join("plain")).unwrap().unwrap(), b"kept");
    let map = files.open_map(&dir.join("map")).unwrap();
    assert_eq!((map.get_u32(0), map.get_u32(8)), (1, 0));
    assert_eq!(files.stat(&dir.join("unnamed")).unwrap(), None);
}

#[test]
fn full_disk_and_planned_failures_are_errors() {
    let (files, dir) = (MemoryFiles::new(), Path::new("/d"));
    files.create_dir_all(dir).unwrap();
    files.set_capacity(Some(100));
    let full = files.create_map(&dir.join("map"), 101).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(files.stat(&dir.join("map")).unwrap(), None);
    files.fail_next(FileOperation::Sync, io::ErrorKind::Other);
    let file = files.open(&dir.join("plain"), OpenMode::CreateNew).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
}
