package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/portcullis/portcullis/lists"
)

// schemaVersion is PRAGMA user_version of what schema makes, and a column of meta.
const schemaVersion = 3

// schema: one table a list, so that clearing a list empties a table (which SQLite does page by page, not row by
// row). seq is the order of the list. hash finds a row by its identifier. expires 0 is never; span is the time to
// live that the entry was given, in seconds, which it never outlives after a reboot. sum is the checksum of the row;
// meta counts and sums up the rows, so that a missing one is noticed too. meta and history have checksums as well.
// value and the entries in before and after are sealed but for addresses (see seal.go); key_id names the key.
const schema = `
CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), schema INTEGER NOT NULL, generation INTEGER NOT NULL,
	settings TEXT NOT NULL, seen INTEGER NOT NULL, boot_id TEXT NOT NULL, anchor_wall INTEGER NOT NULL,
	anchor_boot INTEGER NOT NULL, whitelist_rows INTEGER NOT NULL, whitelist_sum INTEGER NOT NULL,
	blacklist_rows INTEGER NOT NULL, blacklist_sum INTEGER NOT NULL, sum INTEGER NOT NULL, key_id TEXT NOT NULL DEFAULT '');
CREATE TABLE whitelist (seq INTEGER PRIMARY KEY, hash INTEGER NOT NULL, source INTEGER NOT NULL, kind INTEGER NOT NULL,
	name TEXT NOT NULL, value TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, span INTEGER NOT NULL,
	reason TEXT NOT NULL, comment TEXT NOT NULL, added_by TEXT NOT NULL, sum INTEGER NOT NULL);
CREATE INDEX whitelist_hash ON whitelist (hash);
CREATE TABLE blacklist (seq INTEGER PRIMARY KEY, hash INTEGER NOT NULL, source INTEGER NOT NULL, kind INTEGER NOT NULL,
	name TEXT NOT NULL, value TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, span INTEGER NOT NULL,
	reason TEXT NOT NULL, comment TEXT NOT NULL, added_by TEXT NOT NULL, sum INTEGER NOT NULL);
CREATE INDEX blacklist_hash ON blacklist (hash);
CREATE TABLE history (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, time INTEGER NOT NULL, by TEXT NOT NULL,
	via TEXT NOT NULL, op INTEGER NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, count INTEGER NOT NULL,
	note TEXT NOT NULL, sum INTEGER NOT NULL);
`

var (
	errNewer = errors.New("database was written by a newer version")
	errGone  = fmt.Errorf("%w: it could not be opened again", ErrCorrupt)
	// Two ways to lose the file under an open connection, which SQLite does not notice.
	errRemoved  = fmt.Errorf("%w: it was removed while in use", ErrCorrupt)
	errReplaced = errors.New("another file was put in the place of the database: restart the daemon to use that, or move it away to keep what is enforced")
)

// database is one connection to a database file. Not safe for concurrent use.
type database struct {
	conn *sqlite.Conn // nil: closed
	path string
	file os.FileInfo // of the file under the connection
	meta meta        // as last read or written

	makeshift error // why it is open in a way that changes nothing; nil: as it should be

	version  int64   // of the schema
	keys     *sealer // nil: nothing is sealed yet
	ring     *keyring
	filters  filters
	unpacked []unpacked // in this transaction
}

// meta is the one row of table meta.
type meta struct {
	generation uint64
	settings   lists.Settings
	seen       time.Time // when it was written
	anchor     anchor
	tally      [2]tally // by list
	keyID      string   // of what is sealed
}

// tally says what a list's table holds.
type tally struct {
	rows uint64
	sum  uint64 // of the rows' checksums, modulo 2^64
	next int64  // the next row's seq; not kept in meta
}

func newDatabase(conn *sqlite.Conn, path string) *database {
	return &database{conn: conn, path: path, filters: filters{seed: maphash.MakeSeed()}}
}

// openDatabase opens an existing file for reading and writing.
func openDatabase(path string) (*database, error) {
	d := newDatabase(nil, path)
	if err := d.open(); err != nil {
		return nil, err
	}
	return d, nil
}

// open makes the connection.
func (d *database) open() error {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0) // SQLite would fall back to reading only, and says less
	if err != nil {
		return err
	}
	d.file, err = f.Stat()
	_ = f.Close()
	if err != nil {
		return err
	}
	return d.connect(d.path, sqlite.OpenReadWrite, "journal_mode=WAL")
}

// connect opens the file, with that setting before the usual ones.
func (d *database) connect(path string, flags sqlite.OpenFlags, first ...string) error {
	conn, err := sqlite.OpenConn(path, flags)
	if err != nil {
		return err
	}
	conn.SetBusyTimeout(5 * time.Second) // somebody may be looking with another program
	for _, pragma := range append(first, "synchronous=FULL", "wal_autocheckpoint=4000", "cache_size=-16000", "foreign_keys=OFF") {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+pragma, nil); err != nil {
			_ = conn.Close()
			return fmt.Errorf("set %s: %w", pragma, err)
		}
	}
	d.conn = conn
	return nil
}

// createDatabase makes the file, empty but for the settings of a new node, and publishes it under its name only
// when it is whole and on disk.
func createDatabase(path string, clock *Clock, keys *sealer) error {
	first := meta{generation: 1, settings: lists.DefaultSettings(), anchor: clock.anchor}
	if err := writeDatabase(path+".new", first, keys, clock.Now(), nil); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return publish(path+".new", path)
}

// writeDatabase makes a database file with the meta row m and what fill writes, in place of any that is there. After an
// error what is in the file is worth nothing.
func writeDatabase(path string, m meta, keys *sealer, now time.Time, fill func(d *database) error) error {
	if err := emptyFile(path); err != nil {
		return err
	}
	// Without a WAL: what of it does not get into the file when it is closed, SQLite does not tell.
	d := newDatabase(nil, path)
	if err := d.connect(path, sqlite.OpenReadWrite, "journal_mode=OFF"); err != nil {
		return err
	}
	for i := range m.tally {
		m.tally[i] = tally{next: 1}
	}
	d.meta, d.version, d.keys = m, schemaVersion, keys
	d.meta.keyID = keys.id
	return d.close(d.transaction(func() error {
		if err := sqlitex.ExecuteScript(d.conn, schema+bulkSchema+fmt.Sprintf("PRAGMA user_version=%d;", schemaVersion), nil); err != nil {
			return err
		}
		if fill != nil {
			if err := fill(d); err != nil {
				return err
			}
		}
		return d.writeMeta(now)
	}))
}

// inPlace is nil if who opens the path finds the file that is written to. What is written to another is lost at the
// next start, however durable it is.
func (d *database) inPlace() error {
	there, err := os.Stat(d.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errRemoved
	case err != nil:
		return err
	case !os.SameFile(d.file, there):
		return errReplaced
	}
	return nil
}

// close closes the connection, which empties and removes the WAL. It returns err, or else what went wrong here.
func (d *database) close(err error) error {
	if d.conn == nil {
		return err
	}
	closeErr := d.conn.Close()
	d.conn = nil
	if err == nil {
		err = closeErr
	}
	return err
}

// transaction runs f and makes what it wrote durable. After an error nothing of it is left, in meta neither.
func (d *database) transaction(f func() error) (err error) {
	before, filters := d.meta, d.filters
	if err = d.exec("BEGIN IMMEDIATE"); err == nil {
		if err = f(); err == nil {
			err = d.exec("COMMIT")
		}
	}
	if err == nil {
		d.version = schemaVersion
		d.forgetUnpacked()
	} else {
		d.meta, d.filters, d.unpacked = before, filters, nil
		if d.conn != nil && !d.conn.AutocommitEnabled() {
			_ = d.exec("ROLLBACK") // on errors such as SQLITE_FULL SQLite may have done it already
		}
	}
	return err
}

func (d *database) exec(query string, args ...any) error { return d.query(query, nil, args...) }

// query runs a statement, prepared once a connection, and calls row for each row of its answer.
func (d *database) query(query string, row func(*sqlite.Stmt) error, args ...any) (err error) {
	if d.conn == nil {
		return errGone
	}
	stmt, err := d.conn.Prepare(query)
	if err != nil {
		return err
	}
	defer func() {
		if resetErr := stmt.Reset(); err == nil {
			err = resetErr
		}
	}()
	for i, arg := range args {
		switch v := arg.(type) {
		case int:
			stmt.BindInt64(i+1, int64(v))
		case int64:
			stmt.BindInt64(i+1, v)
		case string:
			stmt.BindText(i+1, v)
		case []byte:
			stmt.BindBytes(i+1, v)
		default:
			panic(fmt.Sprintf("store: cannot bind %T", arg))
		}
	}
	for {
		more, err := stmt.Step()
		if err != nil || !more {
			return err
		}
		if row != nil {
			if err := row(stmt); err != nil {
				return err
			}
		}
	}
}

// readVersion reads the version of the schema.
func (d *database) readVersion() error {
	d.version = -1
	return d.query("PRAGMA user_version", func(s *sqlite.Stmt) error { d.version = s.ColumnInt64(0); return nil })
}

// readMeta reads and verifies the meta row.
func (d *database) readMeta() error {
	if err := d.readVersion(); err != nil {
		return err
	}
	version, keyID := d.version, "''"
	if version >= sealVersion {
		keyID = "key_id"
	}
	rows, m := 0, meta{}
	err := d.query(`SELECT schema, generation, settings, seen, boot_id, anchor_wall, anchor_boot,
		whitelist_rows, whitelist_sum, blacklist_rows, blacklist_sum, sum, `+keyID+` FROM meta`, func(s *sqlite.Stmt) error {
		rows++
		if kept := s.ColumnInt64(0); kept != version {
			return fmt.Errorf("%w: schema version %d in its header, %d in table meta", ErrCorrupt, version, kept)
		}
		if version > schemaVersion {
			return fmt.Errorf("%w: its schema version is %d, this program knows up to %d; use the newer program", errNewer, version, schemaVersion)
		}
		settings := s.ColumnText(2)
		m = meta{
			generation: uint64(s.ColumnInt64(1)),
			seen:       time.Unix(0, s.ColumnInt64(3)).UTC(),
			anchor:     anchor{s.ColumnText(4), time.Unix(0, s.ColumnInt64(5)).UTC(), time.Duration(s.ColumnInt64(6))},
			tally: [2]tally{{rows: uint64(s.ColumnInt64(7)), sum: uint64(s.ColumnInt64(8)), next: 1},
				{rows: uint64(s.ColumnInt64(9)), sum: uint64(s.ColumnInt64(10)), next: 1}},
			keyID: s.ColumnText(12),
		}
		if s.ColumnInt64(11) != m.checksum(version, settings) {
			return fmt.Errorf("%w: checksum of table meta is wrong", ErrCorrupt)
		}
		return json.Unmarshal([]byte(settings), &m.settings)
	})
	if err == nil && rows != 1 {
		err = fmt.Errorf("%w: table meta has %d rows", ErrCorrupt, rows)
	}
	if err == nil {
		d.meta = m
	}
	return err
}

// unlock gives the database the key that its values are sealed with; readMeta must have been called. Where nothing is
// sealed yet and the disk does not take a new key, the database can be read all the same; see upgrade.
func (d *database) unlock(r *keyring) (err error) {
	d.ring = r
	if d.keys, err = r.open(d.meta.keyID); err != nil && !errors.Is(err, ErrKey) && d.version < sealVersion {
		err = nil
	}
	return err
}

// writeMeta writes the meta row, with now as the time it was written.
func (d *database) writeMeta(now time.Time) error {
	settings, err := json.Marshal(d.meta.settings)
	if err != nil {
		return err
	}
	d.meta.seen = now.UTC()
	m := &d.meta
	return d.exec(`INSERT OR REPLACE INTO meta (id, schema, generation, settings, seen, boot_id, anchor_wall, anchor_boot,
		whitelist_rows, whitelist_sum, blacklist_rows, blacklist_sum, sum, key_id) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		schemaVersion, int64(m.generation), string(settings), m.seen.UnixNano(), m.anchor.bootID, m.anchor.wall.UnixNano(), int64(m.anchor.boot),
		int64(m.tally[0].rows), int64(m.tally[0].sum), int64(m.tally[1].rows), int64(m.tally[1].sum), m.checksum(schemaVersion, string(settings)), m.keyID)
}

func (m *meta) checksum(version int64, settings string) int64 {
	var c checksum
	c.ints(version, int64(m.generation), m.seen.UnixNano(), m.anchor.wall.UnixNano(), int64(m.anchor.boot))
	for _, t := range m.tally {
		c.ints(int64(t.rows), int64(t.sum))
	}
	c.texts(settings, m.anchor.bootID)
	if version >= sealVersion {
		c.texts(m.keyID)
	}
	return c.sum()
}
