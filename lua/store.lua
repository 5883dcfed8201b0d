--- The store: store.core, and for each commit that changes what is configured a record of the log (lua/changes.lua). Every
-- command, page and worker writes through this `commit`, so none can forget its record.
local core = require "store.core"
local M = {}
for name, f in pairs(core) do M[name] = f end

--- A record with its secrets as handles; without them, and with their names: store.record in proxy.c.
function M.get(db, key) return core.record(db, key, true) end
function M.peek(db, key) return core.record(db, key, false) end

--- mark(secret) -> text | nil, "locked". 22 letters and digits, the same for the same secret in the same store: by its mark
-- a secret is recognised that was here before. Without the store's key a mark tells nothing of the secret.
function M.mark(secret) return core.derive("mark/" .. require("secret.core").sha256(secret)) end

--- conceal(text) -> bytes in letters, which reveal opens where the store's key is, and nobody else | nil, "locked". For what requests
-- said: a copy of the store tells nothing of it. reveal: nil, "locked" | "damaged" | why.
function M.conceal(text)
  local secrets = require "secret.core"
  local label = secrets.base64url(require("host").random(16))
  local out, code = core.crypt(label, text)
  return out and label .. secrets.base64(out), code
end

function M.reveal(text)
  local bytes, code = require("secret.core").decode("base64", text:sub(23))
  if not bytes then return nil, code end
  return core.crypt(text:sub(1, 22), bytes, true)
end

-- What a record gets when it is read: it may be put again as it is.
local added = { "version", "id", "epoch", "secrets", "sealed", "unverified" }

--- As store.core's commit, of operations { op =, db =, key =, version =, room =, keep =, fresh =, moves =, secrets =,
-- plain = { … } }. No record of the log. Yields.
function M.write(ops, deadline)
  local out = {}
  for i, op in ipairs(ops) do
    local text
    if op.op == "put" then
      local plain = {}
      for name, value in pairs(op.plain) do plain[name] = value end
      for _, name in ipairs(added) do plain[name] = nil end
      text = require("json").encode(plain)
    end
    out[i] = { op.op, op.db, op.key, op.version, text, op.room, op.keep, op.fresh, op.moves, op.secrets }
  end
  return core.commit(out, deadline)
end

-- The databases of the table of records (store_dbs in proxy.c): all that grants something.
M.LISTED = { "meta", "policy", "credential", "bundle", "agent", "user", "client", "gateway", "grant" }
local PAGE = 256             -- records a read takes at once

--- Every record that lies below a prefix, in order of keys: for key, record (as peek), why (as core.each) in stored(...).
function M.stored(db, prefix)
  local page, at, more = {}, 0, true
  return function()
    at = at + 1
    if at > #page and more then
      local rows, code = core.each(db, prefix, page[#page] and page[#page].key, PAGE)
      if not rows then error("the store cannot be read: " .. code, 0) end
      page, at, more = rows, 1, #rows == PAGE
    end
    local row = page[at]
    if row then return row.key, row.record, row.damaged end
  end
end

-- The keys below a prefix that the table of records lists and the disk has no longer, of those that are not in `seen`.
local function gone_of(db, prefix, seen)
  local out = {}
  for _, key in ipairs(core.listed(db) or {}) do
    if key:sub(1, #prefix) == prefix and not seen[key] and select(3, core.record(db, key, false)) == "gone" then out[#out + 1] = key end
  end
  table.sort(out)
  return out
end

--- As stored, and then those that are gone from the disk: nil, "gone" in the place of record and why.
function M.records(db, prefix)
  local stored, seen, gone, at = M.stored(db, prefix), {}, nil, 0
  return function()
    if not gone then
      local key, record, why = stored()
      if key then
        seen[key] = true
        return key, record, why
      end
      gone = gone_of(db, prefix, seen)
    end
    at = at + 1
    if gone[at] then return gone[at], nil, "gone" end
  end
end

--- As store.core's open; where its records are logged is known from then on. with.create: in folders that are made, and
-- an absent store is made, with its key file.
function M.open(home, with)
  local ok, code, fault = true, nil, nil
  local create = with and with.create
  if create then ok, code, fault = require("host").folders(home) end
  if ok then ok, code, fault = core.open(home, with) end
  if code == "absent" and create then
    ok, code, fault = require("cli.archive").make(home)
    if ok then ok, code, fault = core.open(home, with) end
  end
  if ok then M.home = home end
  return ok, code, fault
end

local PENDING = "change/"       -- keys of records that are not known to be in the log
local LATE = 60                 -- s: whoever has not said of a record by then that it is there

--- Writes the records of those who died between their commit and that. Yields.
function M.recover()
  local host, now = require "host", require("time").wall()
  for _, row in ipairs(M.each("lease", PENDING, nil, 64) or {}) do
    local r = row.record
    local dead = r and (not host.stat(("/proc/%d"):format(r.pid)) or now - r.at >= LATE or r.at > now)
    -- Whoever takes it over first writes it: workers begin at once.
    if dead and M.write { { op = "put", db = "lease", key = row.key, version = r.version, plain = { line = r.line, pid = host.pid(), at = now } } } then
      require("changes").write(r.line)
      M.write { { op = "del", db = "lease", key = row.key } }
    elseif row.damaged then
      M.write { { op = "del", db = "lease", key = row.key } }
    end
  end
end

--- As write. ops.context: who asks for it (changes.page); a command's is known. What is changed and its record are
-- committed together: a kill behind it loses neither. Yields.
function M.commit(ops, deadline)
  local changes = require "changes"
  local list = changes.of(M, ops)
  if not list then return M.write(ops, deadline) end
  M.recover()
  local host, at = require "host", #ops + 1
  local line, id = changes.line(list, ops.context)
  ops[at] = { op = "put", db = "lease", key = PENDING .. id, version = 0, plain = { line = line, pid = host.pid(), at = require("time").wall() } }
  local ok, result, begun = M.write(ops, deadline)
  ops[at] = nil
  if ok or begun then changes.write(line, begun) end
  if ok then M.write { { op = "del", db = "lease", key = PENDING .. id } } end
  return ok, result, begun
end

return M
