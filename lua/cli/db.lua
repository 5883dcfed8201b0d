--- The store as commands use it: opened once, read whole, written in one short commit.
local report = require "cli.report"
local M = {}

local COMMIT_MS = 20000      -- a server's commits last milliseconds; a longer wait has another cause
local RETRIES = 5            -- another command wrote the same record first: read again and decide again

-- The store says what is wrong; this is what to do about it.
local open_hints = {
  absent = "sallyport init makes one; --home DIR or SALLYPORT_HOME names another",
  key_absent = "put the key file that was made with it back in its place, mode 0600; nothing was changed",
  key_mode = "make it its owner's alone (mode 0600); nothing was changed",
  wrong_key = "put the key file that was made with it back in its place; nothing was changed",
  newer_format = "use that version; nothing was changed",
  damaged = "restore a backup: sallyport restore FILE; sallyport doctor --help says what else",
  not_owner = "root's commands run as the owner; a user who is an agent's has `sallyport run`, and no other command",
  running = "stop it, then run this again, then start the new one",
  full = "free some room and try again; nothing was changed",
  busy = "wait for the others to finish, or end them",
}

-- What each code of the store means, where nothing more is known.
local meaning = {
  damaged = "what is on the disk is not what was written", locked = "the store is not open with its key",
  not_owner = "the store belongs to another user", newer_format = "it was written by a newer version of this program",
  other_store = "the data directory holds another store", running = "a server runs on this data directory",
  full = "no room is left for the store", busy = "too many processes use the store",
  timeout = "another process holds the store", conflict = "the record was changed meanwhile",
  invalid = "a key, a value or a path is out of bounds", memory = "out of memory",
  io = "the disk answered with an error",
}

-- Sentences about one place: %s is its path. `n` is a number that the store saw there.
local sentences = {
  absent = function(_, _, home) return ("there is no store in %s: run init (or serve) first"):format(home) end,
  exists = function(_, _, home) return ("there is a store in %s already"):format(home) end,
  key_absent = function(at)
    return at .. " is missing: without it the secrets in the store cannot be read; bring it back from where you keep it"
  end,
  key_mode = function(at, fault)
    return fault.n and ("%s has mode %04o: others may have read the key; if not, chmod 600 it"):format(at, fault.n)
      or at .. " is not a key file: it should hold 64 hexadecimal digits"
  end,
  wrong_key = function(_, _, home) return home .. "/key is not the key of this store" end,
  not_owner = function(at, fault)
    return fault.n and ("%s belongs to user %d, this command runs as %d: run it as the store's owner"):format(at, fault.n,
      require("host").uid())
  end,
  newer_format = function(at, fault)
    return fault.n and ("%s has format %d, which this version of sallyport does not know: use the newer one; nothing was changed")
      :format(at, fault.n)
  end,
  invalid = function(at, fault) return fault.why and ("%s %s"):format(at, fault.why) end,
  damaged = function(at, fault)
    if not fault.why then return nil end
    if fault.why:find("^MDB_INVALID") then return at .. " is not a store, or its head is damaged" end
    return not fault.why:find("^MDB_") and ("%s %s: restore it from a backup"):format(at, fault.why) or nil
  end,
}

--- A sentence for what store.open and its like answered: a code, and where and why it failed.
function M.why(home, code, fault)
  local at = fault and fault.place and (home .. "/" .. fault.place):gsub("/$", "") or home
  return sentences[code] and sentences[code](at, fault or {}, home)
    or fault and fault.why and ("%s: %s"):format(at, fault.why)
    or ("%s: %s"):format(at, meaning[code] or code)
end

--- What to do about such a code, if anything.
function M.hint(code) return open_hints[code] end

--- Ends the command with what store.open answered.
function M.not_open(home, code, fault)
  local hint, host = open_hints[code], require "host"
  local object, why, more = require("cli.control_client").visitor { home = home, host = host }
  if object then
    hint = ("the server that runs here is another user's, and this one is agent %s's: `sallyport run -- CMD…` and `sallyport env` are what it may"):format(
      report.clean(object.agent))
  elseif why then
    hint = ("%s%s"):format(report.clean(why), more and "; " .. report.clean(more) or "")
  end
  report.fail(M.why(home, code, fault), hint)
end

--- Ends the command: the data directory has such a mode.
function M.open_to_others(home, mode)
  report.fail(("%s can be read by others (mode %03o)"):format(home, mode), "chmod 700 it, or name another place with --home")
end

--- Opens the store of ctx.home or ends the command with the reason.
function M.open(ctx)
  if ctx.opened then return end
  local is = require("host").stat(ctx.home)
  if is and is.type == "dir" and is.mode & 63 ~= 0 then M.open_to_others(ctx.home, is.mode) end
  local ok, code, fault = require("store").open(ctx.home, {})
  if not ok then M.not_open(ctx.home, code, fault) end
  ctx.opened = true
end

--- Every record below a prefix, and those that are gone from the disk: for key, record, damaged in db.each(…), as store.records.
function M.each(name, prefix) return require("store").records(name, prefix) end

--- Every record of a database but the damaged, in the order of its member `at`: { key, record } each. wanted(record): is it listed? nil: all.
function M.oldest(name, at, wanted)
  local out = {}
  for key, r in M.each(name, "") do
    if r and (not wanted or wanted(r)) then out[#out + 1] = { key = key, record = r } end
  end
  table.sort(out, function(a, b)
    local x, y = a.record[at] or 0, b.record[at] or 0
    return x < y or x == y and a.key < b.key
  end)
  return out
end

--- One record's plain part, or nil; a damaged one ends the command.
function M.peek(name, key, what)
  local record, code = require("store").peek(name, key)
  if not record and code == "damaged" then
    local shown = what == "the " .. name and ("%s '%s'"):format(what, report.clean(key)) or what
    report.fail(shown .. " is refused: it was changed on the disk since it was written",
      "remove it and add it again, or restore a backup; sallyport doctor tells more")
  end
  return record
end

--- Names below a prefix: for "did you mean".
function M.names(name, prefix)
  local list = {}
  for key in M.each(name, prefix) do
    local rest = key:sub(#prefix + 1)
    if not rest:find("/", 1, true) then list[#list + 1] = rest end
  end
  return list
end

local kinds = {
  credential = { db = "credential", prefix = "", add = "sallyport credential list" },
  bundle = { db = "bundle", prefix = "", add = "sallyport bundle add %s" },
  agent = { db = "agent", prefix = "a/", add = "sallyport agent list; sallyport agent add %s makes one" },
}

--- The record of a credential, bundle or agent that must be there.
function M.need(kind, name)
  local k = kinds[kind]
  local record = M.peek(k.db, k.prefix .. name, ("%s '%s'"):format(kind, name))
  if record then return record end
  local near = require("records").nearest(name, M.names(k.db, k.prefix))
  report.fail(("there is no %s '%s'"):format(kind, report.clean(name)),
    near and ("did you mean %s?"):format(near) or k.add:format(report.clean(name)))
end

--- The bundles that were named, each once; `default` where none was.
function M.bundles(named)
  local list, seen = {}, {}
  for _, name in ipairs(named or { "default" }) do
    M.need("bundle", name)
    if not seen[name] then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  return list
end

--- Why this agent does not have that credential by its bundles, and what mends it, in one line | nil: it has it.
function M.apart(agent, rec)
  local in_one, off = {}, nil
  for _, b in ipairs(rec.bundles or {}) do in_one[b] = true end
  for _, b in ipairs(agent.bundles or {}) do
    if in_one[b] then
      local bundle = require("store").peek("bundle", b)
      if not (bundle and bundle.enabled == false) then return nil end
      off = off or b
    end
  end
  if off then return ("the bundle %s, by which '%s' has '%s', is disabled: sallyport bundle enable %s"):format(off, agent.name, rec.name, off) end
  return ("'%s' holds no bundle that '%s' is in: sallyport bundle attach"):format(agent.name, rec.name)
end

local why_not_written = {
  full = { "there is no room on the disk", "free some and try again; nothing was changed" },
  timeout = { "another process holds the store", "a stopped sallyport command may hold it: see `jobs` and `ps`" },
  conflict = { "another command changed the same record at the same time", "try again" },
}

--- { database, key, version }: a record that must be as somebody saw it when the next change is committed, and perhaps also = a list of others; nil: none.
M.expect = nil

--- judge(ops) -> why they may not be | nil: of whoever runs commands for somebody else (web.commands).
M.judge = nil

--- Commits what build() answers; build runs again when somebody else wrote first. It must read before it decides.
-- ctx.gathers: the command is a part of something (lua/granting.lua), which commits all its parts together.
function M.change(build, ctx)
  local into = ctx and ctx.gathers
  if into then
    local ops = build()
    table.move(ops, 1, #ops, #into + 1, into)
    return true
  end
  local store, time, expect = require "store", require "time", M.expect
  local code
  for _ = 1, RETRIES do
    local ops = build()
    local why = M.judge and M.judge(ops)
    if why then report.fail(why) end
    for _, e in ipairs(expect and { expect, table.unpack(expect.also or {}) } or {}) do
      ops[#ops + 1] = { op = "check", db = e[1], key = e[2], version = e[3] }
    end
    local ok, result = store.commit(ops, time.now() + COMMIT_MS)
    if ok then
      M.expect = nil      -- what the command writes behind this is its own
      return result
    end
    code = result
    if code ~= "conflict" then break end
    for _, e in ipairs(expect and { expect, table.unpack(expect.also or {}) } or {}) do
      local now = store.peek(e[1], e[2])
      if (now and now.version or 0) ~= e[3] then
        expect.failed = true
        report.fail("somebody changed it meanwhile; nothing was changed", "look at it again")
      end
    end
  end
  local why = why_not_written[code] or { "the store could not be written: " .. tostring(code) }
  report.fail(why[1], why[2])
end

--- Enables a record, or disables it: one member changes, the sealed fields stay as they are. need() -> the record as it is. moves: what was sealed
-- for it opens no more.
function M.switch(name, key, need, on, moves)
  M.change(function()
    local record = need()
    local plain = M.plain(record)
    plain.enabled = on
    return { { op = "put", db = name, key = key, version = record.version, plain = plain, keep = name == "credential" or nil, moves = moves or nil } }
  end)
end

-- What store.get and peek add to the plain members.
local added = { version = true, id = true, epoch = true, secrets = true, sealed = true, unverified = true }

--- A record's plain members alone, in a table of their own.
function M.plain(record)
  local copy = {}
  for k, v in pairs(record) do
    if not added[k] then copy[k] = v end
  end
  return copy
end

return M
