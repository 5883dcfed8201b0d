--- Backup and restore: one portable, authenticated stream of a whole store. And its table of records, made anew, or all of it
-- under another data key.
--
-- bytes         meaning (numbers are big-endian)
-- 17            "sallyport-backup\n"
-- 4, 4          format of the stream, format of the store
-- 8, 8, 8       generations config and state, version of the last commit
-- 84            the data key as it is wrapped by the key file
-- then, a record:
-- 1             "R"
-- 1 + n         name of the database
-- 2 + n         key
-- 4 + n         value, as it lies on the disk: sealed, with its own tag
-- at the end:
-- 1, 8          "E", number of records
-- 32            HMAC-SHA256 over all before it, under a key derived from the data key
--
-- The stream is as secret as the store without its key file. Leases are left out: they bind one boot of one machine.
-- The table of records (proxy.c, section table) goes along: what it refuses here is refused there too.
local store = require "store"
local db = require "cli.db"
local M = {}

local MAGIC = "sallyport-backup\n"
local NEWER = " was written by a newer version of sallyport"
local CHANGED = " is cut short or was changed: nothing was restored"
local FORMAT, STORE_FORMAT = 1, 2
local HEAD, DATAKEY = #MAGIC + 8 + 24 + 84, 84
local KEY_MAX, RECORD_MAX = 500, (32 << 20) + 80   -- of proxy.c: STORE_KEY_MAX; STORE_BATCH_MAX, head and tag
local DATABASES = { "meta", "policy", "credential", "state", "bundle", "agent", "user", "client", "gateway", "grant", "token" }
local COUNTERS, DATAKEY_ENTRY, TABLE, FORMAT_ENTRY = "\1counters", "\1datakey", "\1table", "\1format"
local TIME_SHIFT = 10        -- 1,024 commits a millisecond; below 2^53 until 2248

local KEYS = "keys"          -- of meta: STORE_K_KEYS in proxy.c

-- Of this machine, or soon over: no backup has them. What is damaged of these may be lost.
local FLEETING = { "lease", "approval", "counter", "proposal" }

local function set_of(list, set)
  for _, name in ipairs(list) do set[name] = true end
  return set
end

local known, fleeting = set_of(DATABASES, {}), set_of(FLEETING, {})

-- The store's own entries in meta begin with a byte below the space, which no record's key does.
local function ours(key) return key:byte() <= 32 end

-- A part of the table of records.
local function listing(db, key) return db == "meta" and key:sub(1, #TABLE) == TABLE end

-- The entry at `from` or behind it; raises what the store cannot do.
local function next_entry(raw, db, from)
  local key, value = raw:next(db, from)
  if not key and value then error({ code = value }, 0) end
  return key, value
end

-- for key, value in entries(raw, db): each may be taken out meanwhile.
local function entries(raw, db)
  local key, value
  return function()
    key, value = next_entry(raw, db, key and key .. "\0")
    return key, value
  end
end

-- The entry's bytes | nil.
local function get(raw, db, key)
  local found, value = next_entry(raw, db, key)
  return found == key and value or nil
end

-- Writes the stream: the head that follows the magic, and the records that rows(emit) gives emit(db, key, value). Raises
-- { code =, text = } where the disk fails.
local function write(raw, file, head, rows)
  local n = 0
  local function put(s)
    raw:mac(s)
    local ok, why = file:write(s)
    if not ok then error({ code = "io", text = why }, 0) end
  end
  put(MAGIC .. (">I4I4"):pack(FORMAT, STORE_FORMAT) .. head)
  rows(function(db, key, value)
    put((">Bs1s2s4"):pack(82, db, key, value))
    n = n + 1
  end)
  put((">BI8"):pack(69, n))
  local ok, why = file:write(raw:sum())
  if ok then ok, why = file:flush() end
  if not ok then error({ code = "io", text = why }, 0) end
end

--- Writes the open store, as it is now, to `file` (as io.open's). Raises { code =, text = } where the disk fails.
-- -> true | nil, code, text
function M.write(file)
  local raw <close>, code = store.snapshot()
  if not raw then return nil, code, db.why("the store", code) end
  write(raw, file, get(raw, "meta", COUNTERS):sub(1, 24) .. get(raw, "meta", DATAKEY_ENTRY), function(emit)
    for _, db in ipairs(DATABASES) do
      for key, value in entries(raw, db) do
        -- Nobody reads what is longer: it is somebody else's, and restore would refuse the whole.
        if (not ours(key) or listing(db, key)) and #key <= KEY_MAX and #value <= RECORD_MAX then emit(db, key, value) end
      end
    end
  end)
  return true
end

--- A backup in `path`, whole or not at all and on the disk, or on standard output for "-". It works while a server runs.
-- -> true | nil, code, text
function M.save(path, host)
  local tmp, file, why = path .. ".new", io.stdout, nil
  if path ~= "-" then
    os.remove(tmp)                      -- of one that was killed
    file, why = host.create(tmp)
    if not file then
      return nil, "io", ("cannot write %s: %s"):format(tmp, why == "absent" and "there is no such folder" or why)
    end
  end
  local done, ok, code, text = pcall(M.write, file)
  if not done then
    if type(ok) ~= "table" then error(ok, 0) end
    ok, code, text = nil, ok.code, ok.text
  end
  if path == "-" then return ok, code, text end
  ok = file:close() and ok and host.sync(tmp) and os.rename(tmp, path) and host.sync(path:match("^(.*)/[^/]*$") or ".")
  if ok then return true end
  os.remove(tmp)
  return nil, code or "io", text or ("cannot write %s"):format(path)
end

local function damaged() error({ code = "damaged" }, 0) end

-- Reads exactly n bytes or raises.
local function take(file, n)
  if n == 0 then return "" end
  local s = file:read(n)
  if not s or #s ~= n then damaged() end
  return s
end

-- -> { head =, counters = { config, state, version }, datakey = } | nil, code, text
local function read_head(file, path)
  local head = file:read(HEAD) or ""
  if head:sub(1, #MAGIC) ~= MAGIC then return nil, "invalid", path .. " is not a backup of sallyport" end
  if #head < HEAD then return nil, "damaged", path .. " is cut short" end
  local format, of_store, config, state, version = (">I4I4I8I8I8"):unpack(head, #MAGIC + 1)
  if format > FORMAT or of_store > STORE_FORMAT then
    return nil, "newer_format", path .. NEWER
  end
  if of_store < STORE_FORMAT then return nil, "invalid", path .. " is of a format that was used before the first release, and is read no longer" end
  return { head = head, counters = { config, state, version }, datakey = head:sub(-DATAKEY) }
end

-- Every record behind the head, whose bytes are given; raises { code = "damaged" } unless all that was read is what was
-- written, and nothing lies behind it. more: databases that the stream may have beside a backup's.
local function frames(file, raw, head, more)
  raw:mac(head)
  local n = 0
  local function get(bytes)
    local s = take(file, bytes)
    raw:mac(s)
    return s
  end
  local function counted(bytes, most)
    local size = (">I" .. bytes):unpack(get(bytes))
    if size > most then damaged() end
    return get(size)
  end
  return function()
    local kind = get(1)
    if kind == "E" then
      local whole = (">I8"):unpack(get(8)) == n
      if not raw:sum(take(file, 32)) or not whole or file:read(1) then damaged() end
      return nil
    end
    if kind ~= "R" then damaged() end
    local db, key, value = counted(1, 16), counted(2, KEY_MAX), counted(4, RECORD_MAX)
    if not (known[db] or more and more[db]) or key == "" or ours(key) and not listing(db, key) then damaged() end
    n = n + 1
    return db, key, value
  end
end

-- A rotated token lives only in the newest state: putting the backup's over it would lose it. By the time they were
-- obtained; two machines that went on from one backup count versions each their own.
local function keeps(raw, db, key, value)
  if db ~= "state" and db ~= "token" then return false end
  local there = get(raw, db, key)
  -- Of the door's tokens those of connections come back where there are none: a client has only the newest. Sessions, links
  -- and codes of back then do not.
  if db == "token" then return there ~= nil or key:sub(1, 2) ~= "f/" end
  local live, live_version = nil, nil
  if there then live, live_version = raw:record(db, key, there) end
  if not live then return false end
  local old, old_version = raw:record(db, key, value)
  if not old then return true end
  local a, b = live.obtained_at, old.obtained_at
  if math.type(a) and math.type(b) and a ~= b then return a > b end
  return live_version >= old_version
end

local function must(ok, code)
  if not ok then error({ code = code }, 0) end
end

local function put(raw, db, key, value) must(raw:put(db, key, value)) end

-- Whoever writes to the disk could have set the counters back, which are not authenticated: the config generation of a
-- table that was made, or came with a backup, has the time in it. So it is beyond that of every root before, and none of
-- those ever passes for a newer one.
local function finish(raw, config, state, version, room, made)
  config = math.max(config, require("time").wall_ms() << TIME_SHIFT) + 1
  put(raw, "meta", COUNTERS, (">I8I8I8I8"):pack(config, state, version, room))
  must(raw:table(config, version, made))
end

-- Empties what the backup replaces: all but the tokens and the store's own entries.
local function clear(raw)
  for _, db in ipairs { "policy", "credential", "bundle", "agent", "lease", "user", "client", "gateway", "grant", "meta" } do
    for key in entries(raw, db) do
      if not ours(key) or listing(db, key) then put(raw, db, key, nil) end
    end
  end
end

-- Tokens of credentials that are no more go: NAME's, and those of a stand-in's key (lua/stand_in.lua), k/NAME/AGENT. What
-- the others are promised on the disk is counted anew.
local function settle(raw)
  local room = 0
  for key, value in entries(raw, "state") do
    if not get(raw, "credential", key:match("^k/([^/]*)") or key) then
      put(raw, "state", key, nil)
    else
      local plain, _, bytes = raw:record("state", key, value)
      if plain then room = room + bytes end
    end
  end
  return room
end

-- Both generations and the version become max(live, backup) + 1, so that every worker's cached generation is stale.
local function apply(raw, file, head)
  local live = { (">I8I8I8"):unpack(get(raw, "meta", COUNTERS)) }
  clear(raw)
  for db, key, value in frames(file, raw, head.head) do
    if not keeps(raw, db, key, value) then put(raw, db, key, value) end
  end
  local room = settle(raw)
  for i = 1, 3 do live[i] = math.max(live[i], head.counters[i]) + 1 end
  finish(raw, live[1], live[2], live[3], room)
end

-- The entries that every store has, in one that is made; it is open under that data key. -> true | nil, code, fault
local function made(raw, home, datakey)
  put(raw, "meta", FORMAT_ENTRY, (">I4"):pack(STORE_FORMAT))
  put(raw, "meta", DATAKEY_ENTRY, datakey)
  put(raw, "meta", COUNTERS, (">I8I8I8I8"):pack(0, 0, 0, 0))
  return raw:unlock(home, datakey)
end

-- Under the backup's data key, if there is one: a new store is made, and one that is there has the same.
local function opened(raw, home, datakey)
  local there, code, fault = raw:next("meta")
  if not there and code then return nil, code end       -- not sure whether there is one: it is not overwritten
  if datakey and not there then return made(raw, home, datakey) end
  local ok
  ok, code, fault = raw:unlock(home)
  return ok, code == "wrong_key" and datakey and "other_store" or code, fault
end

-- raw:begin, while no server runs; of a backup's store the folders are made. -> the server's lock, for `<close>` | nil, code, fault
local function begun(raw, home, datakey)
  local host = require "host"
  local ok, code, fault = true, nil, nil
  if datakey then ok, code, fault = host.folders(home) end
  if not ok then return nil, code, fault end
  local lock, why = host.serve_lock(home)
  if why == "running" then return nil, why end
  if not lock then return nil, "io", { place = "serve.lock", why = why } end
  ok, code, fault = raw:begin(home)
  if ok then ok, code, fault = opened(raw, home, datakey) end
  if ok then return lock end
  local _ <close> = lock
  return nil, code, fault
end

-- fill(raw, …): all of it or nothing. -> true | nil, code, fault
local function filled(raw, fill, ...)
  local ok, why = pcall(fill, raw, ...)
  if ok then return raw:commit() end
  if type(why) ~= "table" then error(why, 0) end
  return nil, why.code
end

local function restore(file, path, home)
  local head, code, text = read_head(file, path)
  if not head then return nil, code, text end
  local raw <close> = store.replace()
  local ok, fault
  ok, code, fault = raw:unlock(home, head.datakey)
  if code == "key_absent" or code == "wrong_key" then
    return nil, code, ("%s/key %s: bring the key file of the store that was backed up, mode 0600"):format(home,
      code == "key_absent" and "is missing" or "does not open this backup")
  end
  if code == "newer_format" then return nil, code, path .. NEWER end       -- of the data key in the backup
  if code == "damaged" then return nil, code, path .. CHANGED end
  if not ok then return nil, code, db.why(home, code, fault) end
  local whole, why = pcall(function() for _ in frames(file, raw, head.head) do end end)   -- before anything is touched
  if not whole then
    if type(why) ~= "table" then error(why, 0) end
    return nil, why.code, path .. CHANGED
  end
  if not file:seek("set", HEAD) then return nil, "io", path .. " cannot be read twice" end
  local lock <close>, begin, at = begun(raw, home, head.datakey)
  if not lock then
    code, text = begin, db.why(home, begin, at)
    if code == "running" then text = ("a server runs on %s: stop it first"):format(home) end
    if code == "timeout" then text = ("another process holds %s/store"):format(home) end
    if code == "other_store" then
      text = ("%s holds another store than the backup's, or its data key was changed since: move it away first; nothing was changed"):format(home)
    end
    return nil, code, text
  end
  ok, code, fault = filled(raw, apply, file, head)
  if not ok then return nil, code, ("cannot restore into %s; nothing was changed"):format(db.why(home, code, fault)) end
  return true
end

-- Lists all records whose own tags are valid. What has no valid tag is refused as before.
local function list_anew(raw)
  local config, state, version, room = (">I8I8I8I8"):unpack(get(raw, "meta", COUNTERS))
  for key in entries(raw, "meta") do
    if listing("meta", key) then put(raw, "meta", key, nil) end
  end
  for _, db in ipairs(store.LISTED) do
    for key, value in entries(raw, db) do
      local plain, of = raw:record(db, key, value)
      if plain then
        must(raw:put(db, key, value, true))
        version = math.max(version, of)      -- the counter is not authenticated
      elseif db == "meta" and key == KEYS then
        put(raw, db, key, nil)      -- without it the store opens; what is derived from the key is then drawn anew
      end
    end
  end
  finish(raw, config, state, version + 1, room, true)
end

--- What lies in the store of `home` is from now on what was written last: its table of records is made anew. Not while a
-- server runs, which would serve what it knows to be put back. Nothing else on the disk is changed; the store is closed.
-- -> true | nil, code, fault
function M.accept(home)
  local raw <close> = store.replace()
  local lock <close>, code, fault = begun(raw, home)
  if not lock then return nil, code, fault end
  return filled(raw, list_anew)
end

local function make(home)
  local raw <close> = store.replace()
  local ok, code, fault = raw:begin(home)
  if not ok then return nil, code, fault end
  if next_entry(raw, "meta") then return nil, "exists" end      -- what cannot be read is not overwritten
  local datakey
  datakey, code, fault = store.datakey(home)
  if datakey and not require("host").sync(home) then return nil, "io", { place = "key" } end
  if not datakey then return nil, code, fault end
  ok, code, fault = made(raw, home, datakey)
  if not ok then return nil, code, fault end
  return filled(raw, function()
    put(raw, "meta", COUNTERS, (">I8I8I8I8"):pack(1, 1, 1, 0))
    must(raw:table(1, 1, true))
  end)
end

--- Makes the key file and an empty store, whose folders are there; the store is closed. Never overwrites: what a killed
-- init left (a key, a file without a store in it) is gone on with. -> true | nil, "exists" | …, fault
function M.make(home)
  local host = require "host"
  local done, ok, code, fault = pcall(make, home)
  if not done then
    if type(ok) ~= "table" then error(ok, 0) end
    return nil, ok.code
  end
  if ok and not (host.sync(home .. "/store") and host.sync(home)) then return nil, "io", { place = "store" } end
  return ok, code, fault
end

-- ---- another data key ------------------------------------------------------------------------------

local FOLDER = "/rekey"         -- in the data directory: what is being made, until it takes the store's place
local FILES = { "/stream", "/store/data.mdb", "/store/lock.mdb", "/store/writer.lock", "/store", "" }
local WRITERS_MS = 20000        -- a command's commits last milliseconds
local OLD_KEYS = 4              -- STORE_OLD_KEYS in proxy.c
local DAY = 86400

-- What is derived from a data key and must outlive it: labels of store_keys_derive in proxy.c.
local DERIVE, TEXTS = "sallyport derive 1", "sallyport sealed text 1"

local function sweep(folder)
  for _, name in ipairs(FILES) do os.remove(folder .. name) end
end

-- Raises unless all records are there that were written last. Those that are refused would count again, or would be forgotten,
-- for the new table of records is made of what is there.
local function all_whole()
  for _, name in ipairs(store.LISTED) do
    for key, _, why in store.records(name, "") do
      if why then error({ code = "refused", record = name .. "/" .. key }, 0) end
    end
  end
  local _, parts = store.listed("meta")
  if parts ~= 0 then error({ code = "refused", record = "a part of the table of records" }, 0) end
end

-- The record of keys that outlive this data key, as an operation; and { changes =, old = { { key =, ends_at = }… }, dropped = the same }.
-- It is read, and its secrets made, while the store is open under the old one.
local function outliving(ends)
  local was, now = store.peek("meta", KEYS), require("time").wall()
  local made = { changes = (was and was.changes or 0) + 1, old = {}, dropped = {} }
  local secrets = {}
  for _, old in ipairs(was and was.old or {}) do
    made.old[#made.old + 1] = old.ends_at > now and old or nil
    if old.ends_at <= now then secrets["texts/" .. old.key] = false end
  end
  made.old[#made.old + 1] = { key = made.changes - 1, ends_at = ends }
  while #made.old > OLD_KEYS do
    made.dropped[#made.dropped + 1] = table.remove(made.old, 1)
    secrets["texts/" .. made.dropped[#made.dropped].key] = false
  end
  secrets["texts/" .. made.changes - 1] = assert(store.key(TEXTS)) .. (">I8I8"):pack(made.changes - 1, ends)
  if not was then secrets.derive = assert(store.key(DERIVE)) end      -- else it stays: `keep`
  return { op = "put", db = "meta", key = KEYS, keep = true, secrets = secrets, plain = { changes = made.changes, old = made.old } }, made
end

-- Every record of the open store, sealed under raw's data key.
local function reseal(raw, snapshot, emit)
  for _, list in ipairs { DATABASES, FLEETING } do
    for _, db in ipairs(list) do
      for key in entries(snapshot, db) do
        local value, code
        if not ours(key) and #key <= KEY_MAX then value, code = raw:reseal(db, key) end
        if code and not (code == "damaged" and fleeting[db]) then
          error({ code = code == "damaged" and "refused" or code, record = db .. "/" .. key }, 0)
        end
        if value then emit(db, key, value) end
      end
    end
  end
end

-- The stream that the open store makes under raw's data key. -> its head's bytes, and what lies in the store's counters
local function stream(raw, path, datakey)
  local snapshot <close>, code = store.snapshot()
  if not snapshot then error({ code = code }, 0) end
  local file <close>, why = require("host").create(path)
  if not file then error({ code = "io", text = why }, 0) end
  local counters = get(snapshot, "meta", COUNTERS)
  local head = counters:sub(1, 24) .. datakey
  write(raw, file, head, function(emit) reseal(raw, snapshot, emit) end)
  return MAGIC .. (">I4I4"):pack(FORMAT, STORE_FORMAT) .. head, { (">I8I8I8"):unpack(counters) }
end

local listed = set_of(store.LISTED, {})

-- The stream's records in the empty store, and a table that lists them.
local function settle_anew(raw, path, head, counters)
  local file <close> = assert(io.open(path, "rb"))
  local version, room = counters[3], 0
  take(file, #head)
  for db, key, value in frames(file, raw, head, fleeting) do
    must(raw:put(db, key, value, listed[db]))
    local _, of, bytes = raw:record(db, key, value)
    version, room = math.max(version, of or 0), room + (bytes or 0)
  end
  finish(raw, counters[1], counters[2] + 1, version + 1, room, true)
end

-- Makes the store under another data key in `folder`. -> outliving's second
local function make_anew(home, folder, ends)
  local raw <close> = store.replace()
  local datakey, code, fault = store.datakey(home)
  local ok = datakey
  if ok then ok, code, fault = raw:unlock(home, datakey) end
  if ok then ok, code, fault = store.open(home, {}) end
  if not ok then error({ code = code, fault = fault }, 0) end
  all_whole()
  local op, told = outliving(ends)
  local head, counters = stream(raw, folder .. "/stream", datakey)
  store.close()
  ok, code, fault = raw:begin(folder)
  if ok then ok, code, fault = made(raw, home, datakey) end
  if ok then ok, code, fault = filled(raw, settle_anew, folder .. "/stream", head, counters) end
  -- Twice: LMDB has two places for its root, and who opens the store while it takes the other's place may read either.
  for _ = 1, 2 do
    if ok then ok, code = store.write { op } end
  end
  if not ok then error({ code = code, fault = fault }, 0) end
  return told
end

-- Puts the new store in the old one's place. The lock file of readers belongs to a file: without it the old one is whole, too. It goes
-- once more behind the change: who opened the old file meanwhile made one, whose count of transactions is not the new file's.
-- -> is the change of names on the disk?
local function swap(home, folder)
  local host, at = require "host", home .. "/store"
  if not host.sync(folder .. "/store/data.mdb") then error({ code = "io" }, 0) end
  os.remove(at .. "/lock.mdb")
  if not os.rename(folder .. "/store/data.mdb", at .. "/data.mdb") then error({ code = "io" }, 0) end
  os.remove(at .. "/lock.mdb")
  return host.sync(at)
end

--- All of the store under a new data key, which the same key file wraps: in a file of its own, which takes the place of the old one
-- at once. Nothing in it was ever sealed under the old key. seconds: sealed texts of before open for so long. Not while a server
-- runs; commands that write wait. The store is closed.
-- -> { changes =, old =, dropped = } (outliving), with unsynced = true where a power cut may bring the old store back
--   | nil, code, { place =, why = } of store.open, or { record =, need =, free = }
function M.rekey(home, seconds)
  local host, folder = require "host", home .. FOLDER
  if require("time").wall() < host.build_time - 2 * DAY then return nil, "clock" end
  local lock <close>, why = host.serve_lock(home)
  if not lock then return nil, why == "running" and why or "io", { place = "serve.lock", why = why } end
  local writers <close> = host.lock(home .. "/store/writer.lock", WRITERS_MS)
  if not writers then return nil, "timeout" end
  sweep(folder)
  local need, free = 2 * host.stat(home .. "/store/data.mdb").size, host.disk(home)
  if free and free < need then return nil, "full", { need = need, free = free } end
  for _, dir in ipairs { folder, folder .. "/store" } do
    local ok, wrong = host.mkdir(dir, 448)      -- 0700
    if not ok then return nil, "io", { place = "rekey", why = wrong } end
  end
  local done, told = pcall(make_anew, home, folder, require("time").wall() + seconds)
  if done then
    local swapped, synced = pcall(swap, home, folder)
    if swapped then told.unsynced = not synced or nil else done, told = false, synced end
  end
  sweep(folder)
  store.close()
  if done then return told end
  if type(told) ~= "table" then error(told, 0) end
  return nil, told.code, told.record and told or told.fault or told.text and { place = "rekey", why = told.text }
end

--- The seconds that sealed texts of before open by default: a text of now lasts no longer, nor one of a day ago.
function M.texts_span() return math.max(require("records").settings(nil).seal_max, DAY) end

--- Is there what a change of the data key left that did not end?
function M.rekey_left(home) return require("host").stat(home .. FOLDER) ~= nil end

-- Standard input cannot be read twice: it is kept in a file without a name, sealed as it is.
local function spool()
  local file = io.tmpfile()
  for part in function() return io.stdin:read(65536) end do
    if not file or not file:write(part) then return nil end
  end
  return file and file:seek("set", 0) and file
end

--- Puts a backup's content in the place of the store's in `home`; tokens that are newer stay. Refuses while a server
-- runs. On any error nothing was changed. The store is open with its key afterwards.
-- -> true | nil, "running" | "key_absent" | "wrong_key" | "other_store" | "damaged" | "invalid" | …, text
function M.load(path, home)
  local file, why
  if path == "-" then
    file, why = spool(), "no room to keep what standard input brings"
  else
    file, why = io.open(path, "rb")
  end
  if not file then return nil, path ~= "-" and why:find("No such file") and "absent" or "io", why end
  local ok, code, text = restore(file, path, home)
  file:close()
  if not ok then return nil, code, text end
  ok, code, text = store.open(home, {})
  if ok then require("changes").record { { record = "the whole store", did = "restored" } } end
  return ok, code, not ok and db.why(home, code, text) or nil
end

return M
