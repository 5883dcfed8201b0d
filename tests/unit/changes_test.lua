--- Records of changes: what is one, that no value is in it, its bounds, and that it gets into the log's file whatever becomes of that.
local changes = require "changes"
local host = require "host"
local json = require "json"
local secret = require "secret.core"
local store = require "store"

-- A store of its own; what is logged comes to `lines`.
local function with_store(f)
  return function()
    local home, lines, sink = os.tmpname(), {}, changes.sink
    os.remove(home)
    assert(store.open(home, { create = true }))
    changes.sink = function(line) lines[#lines + 1] = line end
    local ok, err = xpcall(f, debug.traceback, lines, home)
    changes.sink = sink
    store.close()
    os.execute("rm -rf '" .. home .. "'")
    assert(ok, err)
  end
end

local function commit(...) assert(store.commit { ... }) end
local function put(db, key, plain, more)
  local op = { op = "put", db = db, key = key, plain = plain }
  for k, v in pairs(more or {}) do op[k] = v end
  return op
end

return {
  ["each database's record has a name, and no record a value"] = with_store(function(lines)
    for _, row in ipairs {
      { "setting body-max", "meta", "set/body-max" }, { "ca", "meta", "ca" }, { "policy acme", "policy", "acme" }, { "policy acme version 3", "policy", "acme/3" },
      { "credential gh", "credential", "gh" }, { "bundle work", "bundle", "work" }, { "domain entry work docs.test", "bundle", "work/docs.test" },
      { "agent claude", "agent", "a/claude" }, { "tenant acme", "agent", "a/acme", { kind = "tenant" } }, { "token of agent claude", "agent", "t/canary-hash", { agent = "claude" } },
      { "agents' own listeners", "agent", "d/doors" }, { "user ada@box.test", "user", "u/ada@box.test" }, { "role editor", "user", "r/editor" },
      { "sign-in of user ada", "user", "i/canary-hash", { user = "ada" } }, { "client sp_cl_0", "client", "c/sp_cl_0" }, { "gateway tools", "gateway", "tools" },
      { "connection 00ff", "grant", "g/00ff" }, { "key ci", "grant", "k/canary-hash", { name = "ci" } }, { "link for user ada", "token", "l/canary-id", { user = "ada" } },
      { "tokens of gh", "state", "gh" }, { "stand-in gh for claude", "state", "k/gh/claude" },
    } do
      local name, db, key, plain = table.unpack(row)
      plain = plain or {}
      plain.value = "canary-1"
      local n = #lines
      commit(put(db, key, plain, { secrets = { ["f/token"] = secret.of "canary-2" } }))
      plain.value, plain.list = "canary-3", { "canary-4" }
      commit(put(db, key, plain, { secrets = { ["f/token"] = secret.of "canary-5" } }))
      commit { op = "del", db = db, key = key }
      assert(#lines == n + 3, name)
      for i, did in ipairs { "added", "changed", "removed" } do
        local one = json.decode(lines[n + i]).changes[1]
        assert(one.record == name and one.did == did, lines[n + i])
        assert(did ~= "changed" or table.concat(one.members, " ") == "list token value", lines[n + i])
      end
    end
    assert(not table.concat(lines):find("canary", 1, true))
  end),

  ["what the program keeps by itself is no change, nor what stays as it is, nor what was refused"] = with_store(function(lines)
    commit(put("lease", "gh", { at = 1 }))
    commit(put("token", "s/1", { at = 1 }), put("token", "f/1", { at = 1 }))
    commit(put("agent", "e/1", { at = 1 }))
    assert(#lines == 0)
    commit(put("grant", "g/1", { rotation = 1 }), put("user", "u/ada", { links = 1, name = "ada" }))
    assert(#lines == 1)
    commit(put("grant", "g/1", { rotation = 2 }), put("user", "u/ada", { links = 2, name = "ada" }))
    commit { op = "del", db = "grant", key = "g/none" }
    commit { op = "check", db = "grant", key = "g/1", version = store.peek("grant", "g/1").version }
    assert(not store.commit { put("user", "u/ada", { name = "eve" }, { version = 1 << 40 }) })
    assert(#lines == 1)
    commit(put("user", "u/ada", { links = 2, name = "ada" }, { moves = true }))
    assert(#lines == 2 and json.decode(lines[2]).changes[1].did == "changed")
    changes.sink = nil       -- as in a worker, which renews tokens
    commit(put("state", "gh", { at = 1 }))
    assert(#lines == 2)
  end),

  ["hundreds of changes are one record, which the log's pipe takes whole; names steer nothing"] = with_store(function(lines)
    local ops = {}
    for i = 1, 400 do ops[i] = put("client", "c/" .. ("x"):rep(60) .. i, { a = 1 }) end
    ops.context = { by = "ada\n{\"time\":1}", oauth_client = ("\226\128\174\27[31m\"\\"):rep(90), page = "POST /x", client = "192.0.2.1" }
    assert(store.commit(ops))
    local members = {}
    for i = 1, 300 do members["m\n" .. i] = i end
    commit(put("gateway", "tools", {}))
    commit(put("gateway", "tools", members))
    for _, line in ipairs(lines) do
      local r = json.decode(line)
      assert(#line < 4000 and not line:find("%c") and utf8.len(line) and line:find('^{"time":%d+,"kind":"change"') and r.kind == "change", line)
    end
    local r = json.decode(lines[1])
    assert(#r.changes + r.more == 400 and r.by:find("^ada\\x0a") and #r.changes > 10)
    assert(json.decode(lines[3]).changes[1].record == "gateway tools")
  end),

  ["the record of who died behind the commit is written by the next one, once"] = with_store(function(lines)
    local sink = changes.sink
    changes.sink = function() error("killed here", 0) end
    assert(not pcall(commit, put("client", "c/a", { name = "a" })))
    changes.sink = sink
    local left = store.each("lease", "change/")
    assert(#left == 1 and left[1].record.line:find('"client a"', 1, true))
    commit(put("client", "c/b", { name = "b" }))                -- this process lives, so it may still write its own
    assert(#lines == 1 and #store.each("lease", "change/") == 1)
    for i, other in ipairs { { pid = 1 << 22 }, { at = os.time() - 61 }, { at = os.time() + 60 } } do
      local row = store.each("lease", "change/")[1] or { key = "change/x", record = { line = '{"n":1}' } }
      commit(put("lease", row.key, { line = row.record.line, pid = other.pid or host.pid(), at = other.at or os.time() }))
      commit(put("client", "c/c" .. i, { name = "c" }))
      assert(lines[2 * i] == row.record.line and lines[2 * i + 1]:find('"client c' .. i, 1, true), lines[2 * i])
      assert(#lines == 2 * i + 1 and #store.each("lease", "change/") == 0)
    end
  end),

  ["a command's record gets into the file that has the log's name, also where that is moved away meanwhile, or torn"] = with_store(function(_, home)
    local place, path = require "cli.log_place", home .. "/log/requests.jsonl"
    local fake = setmetatable({ read_file = require("cli.files").read, getenv = os.getenv }, { __index = host })
    local moves = 2
    function fake.open_append(at, gid)
      local f, why = host.open_append(at, gid)
      if moves > 0 then
        moves = moves - 1
        os.rename(at, at .. ".moved" .. moves)
      end
      return f, why
    end
    local record = changes.line({ { record = "x", did = "added" } }, {})
    assert(place.add({ home = home, host = fake }, record))
    local f = assert(io.open(path, "rb"))
    assert(f:read("a") == record .. "\n" and moves == 0)
    f:close()
    f = assert(io.open(path, "ab"))
    f:write('{"time":17000000')
    f:close()
    assert(place.add({ home = home, host = fake }, record))
    local whole = 0
    for line in io.lines(path, "L") do whole = whole + (require("reqlog").whole(line) and json.decode(line) and 1 or 0) end
    assert(whole == 2)
    os.execute("rm -rf '" .. home .. "/log'")
    local ok, why = place.add({ home = home, host = fake }, record)
    assert(not ok and why)
  end),
}
