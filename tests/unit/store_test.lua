--- store as Lua sees it. Sealing, damage, faults and crashes are in store_test.c.
local core = require "store.core"         -- what lua/store.lua adds to commit is in changes_test
local store = setmetatable({ get = require("store").get, peek = require("store").peek, commit = require("store").write,
  mark = require("store").mark, open = require("store").open },
  { __index = core })
local secret = require "secret.core"
local archive = require "cli.archive"
local host = require "host"

local function fails(want, ok, code)
  assert(ok == nil and code == want, ("want nil, %s; got %s, %s"):format(want, tostring(ok), tostring(code)))
end

local function sh(command)
  assert(os.execute(command), command)
end

-- A data directory of its own for each case, gone afterwards.
local function with_home(f)
  return function()
    local home = os.tmpname()
    os.remove(home)
    assert(store.open(home, { create = true }))
    local ok, err = xpcall(f, debug.traceback, home)
    store.close()
    sh(("rm -rf '%s' '%s.backup' '%s.backup.bad'"):format(home, home, home))
    assert(ok, err)
  end
end

local function put(db, key, plain, secrets, version)
  return store.commit { { op = "put", db = db, key = key, plain = plain, secrets = secrets, version = version } }
end

local function sh_read(command)
  local pipe <close> = assert(io.popen(command))
  return (pipe:read("a"):gsub("%s+$", ""))
end

-- A backup of the open store beside its home.
local function backup_of(home)
  local file = home .. ".backup"
  assert(archive.save(file, host))
  return file
end

return {
  ["a store that is not there is absent, and create makes it"] = function()
    local home = os.tmpname()
    os.remove(home)
    fails("absent", store.open(home))
    fails("locked", store.get("credential", "c"))
    fails("locked", store.generation())
    fails("locked", put("credential", "c", {}))
    fails("locked", store.placeholder("{20}", "x"))
    fails("locked", store.mark(secret.of "x"))
    fails("locked", require("store").conceal("x"))
    fails("locked", require("store").reveal(("x"):rep(62)))
    assert(store.open(home, { create = true }))
    assert(store.open(home, { create = true }))
    for _, sub in ipairs { "", "/store", "/log" } do assert(host.stat(home .. sub).mode == 448, sub) end
    sh(("chmod 755 '%s/log' && rm -r '%s/store' && touch '%s/store'"):format(home, home, home))
    local ok, code, fault = host.folders(home)
    assert(not ok and code == "io" and fault.place == "store" and fault.why == "Not a directory")
    sh(("rm '%s/store'"):format(home))
    assert(host.folders(home) and host.stat(home .. "/log").mode == 448 and host.stat(home .. "/store").mode == 448)
    store.close()
    sh("rm -rf '" .. home .. "'")
  end,

  ["a record comes back with its version and its secrets as handles"] = with_home(function()
    local ok, version = put("credential", "gh", { name = "gh", hosts = { "api.github.com" }, n = 1.5, on = true },
      { ["f/key"] = secret.of "canary-1", ["h/x"] = secret.of "" }, 0)
    assert(ok and math.type(version) == "integer")
    local rec = assert(store.get("credential", "gh"))
    assert(rec.name == "gh" and rec.hosts[1] == "api.github.com" and rec.n == 1.5 and rec.on == true)
    assert(rec.version == version and rec.sealed == nil)
    assert(secret.is(rec.secrets["f/key"]) and secret.is(rec.secrets["h/x"]))
    assert(not pcall(tostring, rec.secrets["f/key"]))
  end),

  ["peek shows names of secrets, never a handle"] = with_home(function()
    put("credential", "gh", { name = "gh" }, { ["f/key"] = secret.of "canary-1" })
    put("bundle", "b", { name = "b" })
    local rec = assert(store.peek("credential", "gh"))
    assert(rec.name == "gh" and rec.secrets == nil and #rec.sealed == 1 and rec.sealed[1] == "f/key")
    assert(rec.unverified == nil)
    rec = assert(store.peek("bundle", "b"))
    assert(rec.sealed == nil and rec.secrets == nil)
    assert(store.get("bundle", "b").secrets == nil)
    fails("absent", store.peek("credential", "nobody"))
    fails("absent", store.get("credential", "nobody"))
  end),

  ["a record that was read can be put again as it is"] = with_home(function()
    local _, v1 = put("state", "s", { n = 1 }, { a = secret.of "1", b = secret.of "2" })
    local rec = store.get("state", "s")
    rec.n = 2
    local _, v2 = store.commit { { op = "put", db = "state", key = "s", plain = rec, keep = true, version = v1,
      secrets = { b = false } } }
    rec = store.get("state", "s")
    assert(rec.n == 2 and rec.version == v2 and v2 > v1)
    assert(rec.secrets.a and rec.secrets.b == nil)
    rec = store.peek("state", "s")
    rec.n = 3
    assert(store.commit { { op = "put", db = "state", key = "s", plain = rec, keep = true } })
    rec = store.get("state", "s")
    assert(rec.n == 3 and rec.secrets.a and rec.sealed == nil)
  end),

  ["preconditions conflict, and then nothing of the commit is done"] = with_home(function()
    local _, v = put("state", "s", { n = 1 })
    fails("conflict", put("state", "s", { n = 2 }, nil, 0))
    fails("conflict", put("state", "s", { n = 2 }, nil, v + 1))
    fails("conflict", store.commit {
      { op = "put", db = "lease", key = "l", plain = {} }, { op = "check", db = "state", key = "s", version = v + 1 },
    })
    fails("absent", store.peek("lease", "l"))
    assert(store.commit {
      { op = "put", db = "lease", key = "l", plain = {}, version = 0 }, { op = "check", db = "state", key = "s", version = v },
      { op = "check", db = "state", key = "none", version = 0 },
    })
    fails("conflict", store.commit { { op = "del", db = "lease", key = "l", version = 1 } })
    assert(store.commit { { op = "del", db = "lease", key = "l" } })
    fails("absent", store.peek("lease", "l"))
  end),

  ["a wrong operation raises and writes nothing"] = with_home(function()
    local config, state = store.generation()
    local good = { op = "put", db = "bundle", key = "b", plain = {} }
    for _, bad in ipairs {
      { op = "put", db = "bundle", key = "b" }, { op = "put", db = "nowhere", key = "b", plain = {} },
      { op = "put", db = "bundle", key = "", plain = {} }, { op = "put", db = "bundle", key = "a\0b", plain = {} },
      { op = "put", db = "bundle", key = ("k"):rep(501), plain = {} }, { op = "put", db = "meta", key = "\1format", plain = {} },
      { op = "put", db = "bundle", key = "b", plain = {}, secrets = { a = "no secret" } },
      { op = "put", db = "bundle", key = "b", plain = {}, secrets = { secret.of "1" } },
      { op = "put", db = "bundle", key = "b", plain = { f = print } },
      { op = "put", db = "bundle", key = "b", plain = { s = secret.of "1" } },
      { op = "check", db = "bundle", key = "b" }, { op = "drop", db = "bundle", key = "b" }, { db = "bundle", key = "b" }, 7,
    } do
      assert(not pcall(store.commit, { good, bad }))
    end
    assert(not pcall(store.get, "nowhere", "b"))
    local c, s = store.generation()
    assert(c == config and s == state)
    fails("absent", store.peek("bundle", "b"))
  end),

  ["each pages by prefix, in order"] = with_home(function()
    local ops = {}
    for i = 1, 25 do ops[i] = { op = "put", db = "bundle", key = ("p/%02d"):format(i), plain = { i = i } } end
    ops[26] = { op = "put", db = "bundle", key = "o", plain = {} }
    ops[27] = { op = "put", db = "bundle", key = "q", plain = {} }
    assert(store.commit(ops))
    local seen, after = 0, nil
    repeat
      local page = store.each("bundle", "p/", after, 10)
      for _, row in ipairs(page) do
        seen = seen + 1
        assert(row.record.i == seen and row.key == ("p/%02d"):format(seen) and not row.damaged)
        after = row.key
      end
    until #page < 10
    assert(seen == 25)
    assert(#store.each("bundle", "") == 27 and #store.each("meta", "") == 0 and #store.each("bundle", "x") == 0)
  end),

  ["changes tell what was written since a generation"] = with_home(function()
    put("credential", "a", {})
    local before = store.generation()
    local _, code, base = store.changes(-1)
    assert(code == "rebuild" and base == before)     -- from here on they are known
    assert(#store.changes(before) == 0)
    put("state", "a", {})
    put("bundle", "gone", {})
    store.commit { { op = "put", db = "bundle", key = "b", plain = {} }, { op = "del", db = "credential", key = "a" } }
    store.commit { { op = "del", db = "bundle", key = "gone" } }
    local after, state = store.generation()
    assert(after == before + 3 and state > 0)
    local list, now = store.changes(before)
    local seen = {}
    for i = 1, #list, 2 do seen[#seen + 1] = list[i] .. " " .. list[i + 1] end
    table.sort(seen)
    assert(table.concat(seen, ", ") == "bundle b, credential a" and now == after)
    assert(#store.changes(after) == 0)
    fails("rebuild", store.changes(after + 1))
    fails("rebuild", store.changes(before))
  end),

  ["without the key file the names can be read, unverified"] = with_home(function(home)
    put("credential", "gh", { name = "gh" }, { ["f/key"] = secret.of "canary-1" })
    os.rename(home .. "/key", home .. "/key.away")
    fails("key_absent", store.open(home))
    assert(store.open(home, { keyless = true }))
    local rec = assert(store.peek("credential", "gh"))
    assert(rec.name == "gh" and rec.unverified and rec.sealed[1] == "f/key")
    assert(store.each("credential", "")[1].record.unverified)
    fails("locked", store.get("credential", "gh"))
    fails("locked", put("credential", "gh", {}))
  end),

  ["placeholders are stable, apart, and say where their longest random part ends"] = with_home(function(home)
    local a, stop = store.placeholder("sk-{4}-{20:hex}-prod", "one")
    assert(#a == 33 and a:find("^sk%-%w%w%w%w%-%x+%-prod$") and stop == 28)
    assert(select(2, store.placeholder("{4}{4}{4}{4}", "one")) == 4)
    assert(store.placeholder("sk-{4}-{20:hex}-prod", "two") ~= a)
    assert(store.open(home))
    assert(store.placeholder("sk-{4}-{20:hex}-prod", "one") == a)
    fails("invalid", store.placeholder("{200}{57}", "one"))
    for _, odd in ipairs { "{", "{4", "{:emoji}", "{9999}", "{4:emoji}", "}", "" } do assert(#store.placeholder(odd, "one") <= #odd) end
  end),

  ["what is concealed opens as it was, in this store alone"] = with_home(function(home)
    local lua = require "store"
    for _, text in ipairs { "", "a", ("canary\0"):rep(3000) } do
      local kept, again = assert(lua.conceal(text)), assert(lua.conceal(text))
      assert(lua.reveal(kept) == text and lua.reveal(again) == text and kept ~= again and not kept:find "canary")
      assert(store.open(home))
      assert(lua.reveal(kept) == text)
      -- each byte counts: of the label, the text and the tag; and its end
      for at = 1, #kept, 1 + #kept // 60 do
        local c = kept:sub(at, at)
        if c ~= "=" then fails("damaged", lua.reveal(kept:sub(1, at - 1) .. (c == "A" and "Q" or "A") .. kept:sub(at + 1))) end
      end
      for _, cut in ipairs { "", kept:sub(1, 22), kept:sub(1, 38), kept:sub(1, -5) } do assert(lua.reveal(cut) == nil) end
      sh(("mv '%s' '%s.backup'"):format(home, home))
      assert(store.open(home, { create = true }))
      fails("damaged", lua.reveal(kept))
      sh(("rm -rf '%s' && mv '%s.backup' '%s'"):format(home, home, home))
      assert(store.open(home) and lua.reveal(kept) == text)
    end
  end),

  ["a secret is known again by its mark, in this store alone"] = with_home(function(home)
    local a = store.mark(secret.of "canary-1")
    assert(#a == 22 and a:find("^%w+$") and a ~= store.mark(secret.of "canary-2") and a ~= store.mark(secret.of ""))
    assert(store.open(home))
    assert(store.mark(secret.of "canary-1") == a and store.mark(secret.of("x"):sha256()) ~= store.mark(secret.of "x"))
    store.close()
    local other = os.tmpname()
    os.remove(other)
    assert(store.open(other, { create = true }))
    assert(store.mark(secret.of "canary-1") ~= a)
    sh("rm -rf '" .. other .. "'")
  end),

  ["a backup is restored into the same store and a new one"] = with_home(function(home)
    put("credential", "gh", { name = "gh" }, { ["f/key"] = secret.of "canary-1" })
    put("state", "gh", { obtained_at = 100, n = "old" }, { access_token = secret.of "canary-2" })
    put("meta", "set/echo", { value = "off" })
    put("lease", "gh", {})
    local file = backup_of(home)
    assert(sh_read(("stat -c %%a '%s'"):format(file)) == "600")
    put("state", "gh", { obtained_at = 200, n = "new" })
    put("credential", "later", {})
    put("state", "later", { obtained_at = 200 })
    put("state", "k/later/agent", {})
    put("meta", "set/echo", { value = "on" })
    local config, state = store.generation()
    assert(archive.load(file, home))
    local config2, state2 = store.generation()
    assert(config2 > config and state2 > state)
    for _, gone in ipairs { { "credential", "later" }, { "state", "later" }, { "state", "k/later/agent" }, { "lease", "gh" } } do
      fails("absent", store.peek(gone[1], gone[2]))
    end
    assert(store.peek("state", "gh").n == "new" and store.peek("meta", "set/echo").value == "off")
    put("credential", "after", {})

    local other = home .. "/other"
    fails("absent", store.open(other))
    fails("key_absent", archive.load(file, other))
    fails("absent", store.open(other))
    sh(("mkdir -m 700 '%s' && cp -p '%s/key' '%s/key'"):format(other, home, other))
    assert(archive.load(file, other))
    assert(store.get("state", "gh").n == "old" and store.get("credential", "gh").secrets["f/key"])
    os.remove(file)
    fails("absent", archive.load(file, other))
  end),

  ["a token that was obtained later stays, an older one goes, and by version where nobody says when"] = with_home(function(home)
    for _, name in ipairs { "a", "b", "c" } do put("credential", name, {}) end
    put("state", "a", { obtained_at = 100, n = "backup" })
    put("state", "b", { obtained_at = 100, n = "backup" })
    put("state", "c", { n = "backup" })
    local file = backup_of(home)
    put("state", "a", { obtained_at = 50, n = "live" })
    put("state", "b", { obtained_at = 100.5, n = "live" })
    put("state", "c", { n = "live" })
    assert(archive.load(file, home))
    assert(store.peek("state", "a").n == "backup" and store.peek("state", "b").n == "live" and store.peek("state", "c").n == "live")
  end),

  ["of the door a backup brings back who may come in, and of tokens only those of connections that have none"] = with_home(function(home)
    put("user", "u/ada", { name = "ada" })
    put("grant", "g/1", { connection = "1" })
    put("gateway", "tools", { name = "tools" })
    for _, key in ipairs { "f/1", "f/2", "s/x", "l/x", "c/x" } do put("token", key, { n = "backup" }) end
    local file = backup_of(home)
    put("token", "f/1", { n = "live" })
    store.commit { { op = "del", db = "token", key = "f/2" }, { op = "del", db = "token", key = "s/x" }, { op = "del", db = "token", key = "l/x" },
      { op = "del", db = "token", key = "c/x" }, { op = "del", db = "user", key = "u/ada" } }
    put("user", "u/later", {})
    put("grant", "g/later", {})
    assert(archive.load(file, home))
    assert(store.peek("user", "u/ada") and store.peek("grant", "g/1") and store.peek("gateway", "tools"))
    assert(store.peek("token", "f/1").n == "live" and store.peek("token", "f/2").n == "backup")
    for _, gone in ipairs { { "user", "u/later" }, { "grant", "g/later" }, { "token", "s/x" }, { "token", "l/x" }, { "token", "c/x" } } do
      fails("absent", store.peek(gone[1], gone[2]))
    end
  end),

  ["a backup that is cut, longer or changed anywhere is refused, and changes nothing"] = with_home(function(home)
    put("credential", "gh", { name = "gh" }, { ["f/key"] = secret.of "canary-1" })
    put("state", "gh", { obtained_at = 100 }, { access_token = secret.of "canary-2" })
    local file = backup_of(home)
    local f <close> = assert(io.open(file, "rb"))
    local text, bad = f:read("a"), file .. ".bad"
    put("credential", "gh", { name = "live" })
    local function tried(what)
      local out <close> = assert(io.open(bad, "wb"))
      out:write(what)
      out:close()
      return archive.load(bad, home)
    end
    for i = 1, #text, 13 do
      assert(not tried(text:sub(1, i - 1)), i)
      assert(not tried(text:sub(1, i - 1) .. string.char(text:byte(i) ~ 1) .. text:sub(i + 1)), i)
    end
    for _, behind in ipairs { "\0", "R", text } do fails("damaged", tried(text .. behind)) end
    fails("invalid", tried("hello"))
    fails("newer_format", tried(text:sub(1, 17) .. "\0\0\0\2" .. text:sub(22)))
    -- its data key: what is wrong is the backup, not the store
    local _, code, why = tried(text:sub(1, 85) .. string.char(text:byte(86) ~ 1) .. text:sub(87))
    assert(code == "damaged" and why:find(bad, 1, true), why)
    _, code, why = tried(text:sub(1, 53) .. "\2" .. text:sub(55))
    assert(code == "newer_format" and why:find(bad, 1, true), why)
    assert(store.open(home) and store.peek("credential", "gh").name == "live")
    assert(archive.load(file, home) and store.peek("credential", "gh").name == "gh")
    os.remove(bad)
    os.remove(file)
  end),

  ["a backup's bytes are as the table says"] = with_home(function(home)
    put("bundle", "b", { n = 1 })
    local file = backup_of(home)
    local f <close> = assert(io.open(file, "rb"))
    local text, at, seen, n = f:read("a"), 134, {}, 0
    assert(text:sub(1, 17) == "sallyport-backup\n")
    local format, of_store, config, state = (">I4I4I8I8"):unpack(text, 18)
    local live_config, live_state = store.generation()
    assert(format == 1 and of_store == 2 and config == live_config and state == live_state and text:sub(50, 53) == "SPK1")
    while text:sub(at, at) == "R" do
      local db, key, value, to = (">s1s2s4"):unpack(text, at + 1)
      assert(value:sub(1, 3) == "SPR" or db == "meta" and key:sub(1, 6) == "\1table")
      seen[db .. " " .. key], at, n = true, to, n + 1
    end
    assert(seen["bundle b"] and text:sub(at, at) == "E" and (">I8"):unpack(text, at + 1) == n and #text == at + 8 + 32)
    os.remove(file)
  end),

  ["a backup goes into no other store, and not past another key"] = with_home(function(home)
    local file = backup_of(home)
    local other = home .. "/other"
    assert(store.open(other, { create = true }))
    put("credential", "mine", {})
    fails("wrong_key", archive.load(file, other))
    sh(("cp -p '%s/key' '%s/key'"):format(home, other))
    fails("other_store", archive.load(file, other))
    sh(("rm -r '%s' && mkdir -m 700 '%s' && cp -p '%s/key' '%s/key'"):format(other, other, home, other))
    assert(store.open(other, { create = true }))
    put("credential", "mine", {})
    fails("other_store", archive.load(file, other))
    assert(store.open(other) and store.peek("credential", "mine"))
    os.remove(file)
  end),

  ["a backup that cannot be written leaves nothing behind"] = with_home(function(home)
    local ok, code = archive.save(home .. "/nowhere/file", host)
    assert(not ok and code == "io")
    sh(("mkdir '%s/there'"):format(home))
    assert(not archive.save(home .. "/there", host))
    assert(sh_read(("ls -A '%s' | grep -c new"):format(home)) == "0")
  end),

  ["a commit that meets a held store times out and is never applied"] = with_home(function(home)
    local file = home .. "/store/writer.lock"
    local held = assert(io.popen(("flock '%s' cat"):format(file), "w"))
    while os.execute(("flock -n '%s' true"):format(file)) do end
    local now = require("time").now()
    local ok, code, begun = store.commit({ { op = "put", db = "lease", key = "l", plain = {} } }, now + 60)
    assert(ok == nil and code == "timeout" and not begun, tostring(code))
    held:close()
    assert(store.commit { { op = "put", db = "lease", key = "other", plain = {} } })
    fails("absent", store.peek("lease", "l"))
  end),
}
