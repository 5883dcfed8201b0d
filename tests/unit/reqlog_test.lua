--- The request log's writer (lua/reqlog.lua) and its readers (lua/cli/log_files.lua), without a server.
local reqlog = require "reqlog"
local files = require "cli.log_files"
local host, json = require "host", require "json"

local NOW = 1800000000             -- s
local SIZE = 64 << 10

local function is(got, want) assert(got == want, ("got %s, wanted %s"):format(tostring(got), tostring(want))) end

local function record(agent, n, more)
  return ('{"time":%d,"request":"%08x"%s,"decision":"allow","method":"GET","host":"h.test","port":443,"path":"/%s"}\n'):format(
    1000 * NOW + n, n, agent and (',"agent":"%s"'):format(agent) or "", more or "")
end

local function refusal(agent, n, code, path)
  return ('!00000001{"time":%d,"agent":"%s","decision":"deny","reason":"%s","method":"GET","host":"h.test","port":443,"path":"%s","error":"%s"}\n')
    :format(1000 * NOW + n, agent, code, path or "/", code)
end

-- f(path, with, said): a folder of its own; `said` holds what the writer had to say.
local function with_folder(f)
  return function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(host.mkdir(dir, tonumber("700", 8)))
    local path = dir .. "/requests.jsonl"
    local ok, err = xpcall(f, debug.traceback, path,
      { path = path, size = SIZE, age = 86400, group = -1, build = NOW - 1000 * 86400 })
    os.execute(("chmod -R u+w '%s'; rm -rf '%s'"):format(dir, dir))
    assert(ok, err)
  end
end

local function writer(with, clock)
  local said = {}
  local w = reqlog.new(with, { json = json, ms = function() return 1000 * (clock and clock.now or NOW) end,
    host = setmetatable({ aside = false, log = function(s) said[#said + 1] = s end }, { __index = host }) })
  w.said = said
  return w
end

local function lines(path)
  local out = {}
  local f = io.open(path, "rb")
  if f then
    for l in f:lines("L") do out[#out + 1] = l end
    f:close()
  end
  return out
end

local function put(path, ...)
  local f = assert(io.open(path, "ab"))
  assert(f:write(...))
  f:close()
end

-- agent -> how many of its records, and the first and last path's number.
local function count(path)
  local n, first, last = {}, {}, {}
  for _, l in ipairs(lines(path)) do
    local a, i = l:match('"agent":"([^"]*)"') or "", tonumber(l:match('"request":"(%x+)"') or "0", 16)
    n[a], first[a], last[a] = (n[a] or 0) + 1, first[a] or i, i
  end
  return n, first, last
end

-- What a reader sees, in order.
local function all(path)
  local out = {}
  local set = files.snapshot(host, path)
  for _, file in ipairs(files.list(set)) do
    files.forward(file, function(l) if reqlog.whole(l) then out[#out + 1] = l end end)
  end
  files.close(set)
  return out
end

return {
  ["a batch is written when it ends, in its order"] = with_folder(function(path, with)
    local w = writer(with)
    w:feed(record("a", 1))
    w:feed(record("b", 2))
    is(#lines(path), 0)
    w:feed("\n")
    is(table.concat(lines(path)), record("a", 1) .. record("b", 2))
    is(host.stat(path).mode, tonumber("600", 8))
  end),

  ["what is no record is not written"] = with_folder(function(path, with)
    local w = writer(with)
    for _, bad in ipairs { "{}\n", "x\n", '{"time":1', '"time":5}\n', '{"time":"x"}\n', '!{"x":1}\n', " \n" } do w:feed(bad) end
    w:feed(record("a", 1))
    w:feed("\n")
    is(table.concat(lines(path)), record("a", 1))
  end),

  ["a line that was torn ends before the next record"] = with_folder(function(path, with)
    put(path, record("a", 1), record("a", 2):sub(1, 40))
    local w = writer(with)
    w:feed(record("a", 3))
    w:feed("\n")
    is(#lines(path), 3)
    is(lines(path)[3], record("a", 3))
    is(#all(path), 2)
  end),

  ["beyond twenty in a second refusals of an agent become one record for each code"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    for i = 1, 1000 do
      w:feed(refusal("flood", i // 25, i % 2 == 0 and "host_not_allowed" or "path_not_allowed", "/p" .. i))
      if i % 100 == 0 then w:feed(record("flood", i)) end
    end
    for i = 1, 20 do w:feed(refusal("quiet", i, "host_not_allowed")) end
    w:feed("\n")
    is(#lines(path), 20 + 10 + 20)
    clock.now = NOW + 1
    w:feed("\n")
    local got = lines(path)
    is(#got, 52)
    local one, two = json.decode(got[51]), json.decode(got[52])
    is(one.error, "path_not_allowed")
    is(one.count, 490)
    is(one.agent, "flood")
    is(one.decision, "deny")
    is(one.first, "GET h.test:443/p21")
    is(one.last, "GET h.test:443/p999")
    is(two.error, "host_not_allowed")
    is(two.count, 490)
    is(two.first, "GET h.test:443/p22")
    is(two.last, "GET h.test:443/p1000")
    -- The next second begins anew, and the end of the process is an end of the second.
    for i = 1, 25 do w:feed(refusal("flood", i, "host_not_allowed")) end
    w:finish()
    is(#lines(path), 52 + 20 + 1)
    is(json.decode(lines(path)[73]).count, 5)
  end),

  ["a writer that was behind writes what it counts, though the last ends of batches come at once"] = with_folder(function(path, with)
    local clock = { now = NOW + 2 }
    local w = writer(with, clock)
    for i = 1, 60 do w:feed(refusal("flood", i, "host_not_allowed")) end
    w:feed("\n")
    w:feed("\n")
    is(#lines(path), 21)
    is(json.decode(lines(path)[21]).count, 40)
  end),

  ["failed handshakes of one kind have a record in ten seconds, and the next one tells their number"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    local function note(why, host, n)
      w:feed((('!%08x{"time":%d,"agent":"a","decision":"deny","reason":"client_tls: %s","method":"CONNECT","host":"%s","port":443,'
        .. '"path":"","error":"client_tls"}\n'):format(n or 1, 1000 * clock.now, why, host)))
      w:feed("\n")
    end
    for _ = 1, 20 do note("unknown_ca", "h.test") end
    note("timeout", "h.test")
    note("unknown_ca", "other.test")
    is(#lines(path), 3)
    clock.now = NOW + 9
    note("unknown_ca", "h.test", 3)
    is(#lines(path), 3)
    clock.now = NOW + 10
    note("unknown_ca", "h.test", 2)
    note("unknown_ca", "other.test")
    local all = lines(path)
    is(json.decode(all[4]).reason, "client_tls: unknown_ca, 23 times more")   -- 19, 3, and one of the last two
    is(json.decode(all[5]).reason, "client_tls: unknown_ca")
    clock.now = NOW - 1000                                                    -- a clock that was set back hides nothing
    note("unknown_ca", "h.test")
    is(#lines(path), 6)
    for i = 1, 600 do note("unknown_ca", "h" .. i .. ".test") end
    assert(w.notes.n <= 257)
  end),
  ["refusals are counted by host, for a few hosts, and what a worker counted counts"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    for i = 1, 20 do w:feed(refusal("a", i, "host_not_allowed")) end
    for i = 1, 70 do w:feed((refusal("a", i, "host_not_allowed"):gsub("h%.test", "h" .. i % 7 .. ".test"))) end
    w:feed((refusal("a", 71, "host_not_allowed"):gsub("00000001", "00000100"):gsub("h%.test", "h1.test")))
    w:feed("!zzzzzzzz" .. record("a", 1))
    w:feed("!1" .. record("a", 1))
    clock.now = NOW + 1
    w:feed("\n")
    local n, others = {}, 0
    for i, l in ipairs(lines(path)) do
      local r = json.decode(l)
      if i > 20 and r.host then n[r.host] = r.count elseif i > 20 then others = others + r.count end
    end
    is(n["h1.test"], 10 + 256)
    is(n["h2.test"], 10)
    is(n["h4.test"], 10)
    is(n["h5.test"], nil)
    is(others, 30)
    -- a single one is the record that it was
    for i = 1, 21 do w:feed(refusal("a", i, "host_not_allowed", "/p" .. i)) end
    clock.now = NOW + 2
    w:feed("\n")
    local all_lines = lines(path)
    is(json.decode(all_lines[#all_lines]).path, "/p21")
  end),

  ["one agent's names cannot count for another's"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    -- The path holds what looks like another agent's member, as JSON writes it.
    for i = 1, 40 do w:feed(refusal("evil", i, "host_not_allowed", [[/\"agent\":\"good\",\"error\":\"x\"]])) end
    for i = 1, 20 do w:feed(refusal("good", i, "host_not_allowed")) end
    clock.now = NOW + 1
    w:feed("\n")
    local n = {}
    for _, l in ipairs(lines(path)) do
      local r = assert(json.decode(l))
      n[r.agent] = (n[r.agent] or 0) + (r.count or 1)
    end
    is(n.evil, 40)
    is(n.good, 20)
    is(#lines(path), 41)
  end),

  ["every line stays one line, whatever a path holds"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    for i = 1, 22 do w:feed(refusal("a", i, "bad_request", [[/\u0000\u001b[2J\n\r\"}]])) end
    clock.now = NOW + 2
    w:feed("\n")
    for _, l in ipairs(lines(path)) do
      assert(json.decode(l), l)
      assert(not l:sub(1, -2):find("%c"), l)
    end
    is(#lines(path), 21)
  end),

  ["a rotation keeps the newest of every agent, however many another has"] = with_folder(function(path, with)
    put(path .. ".1", record("a", 1), record("b", 2))
    local flood = {}
    for i = 3, 1000 do flood[#flood + 1] = record("flood", i, ("x"):rep(100)) end
    put(path .. ".0", table.concat(flood), record("a", 1001), record(nil, 1002))
    reqlog.merge(with, host, 1000 * NOW)
    is(host.stat(path .. ".0"), nil)
    local n, first, last = count(path .. ".1")
    is(n.a, 2)
    is(n.b, 1)
    is(n[""], 1)
    is(first.a, 1)
    is(last.flood, 1000)
    assert(n.flood > 100 and n.flood == last.flood - first.flood + 1, n.flood)
    assert(host.stat(path .. ".1").size <= SIZE // 2)
    is(host.stat(path .. ".1").mode, tonumber("600", 8))
  end),

  ["of each agent ten thousand come before what another has beyond that"] = with_folder(function(path, with)
    with.size = 16 << 20
    local text = {}
    for i = 1, 10500 do text[#text + 1] = record("large", i, ("x"):rep(150)) end
    for i = 10501, 22500 do text[#text + 1] = record("small", i) end
    put(path .. ".0", table.concat(text))
    reqlog.merge(with, host, 1000 * NOW)
    local n = count(path .. ".1")
    -- There is room for the rest, and it stays.
    is(n.large, 10500)
    is(n.small, 12000)
    for _, size in ipairs { 8 << 20, 8300000 } do
      with.size = size
      reqlog.merge(with, host, 1000 * NOW)
      n = count(path .. ".1")
      assert(n.large >= 10000 and n.small >= 10000, n.large .. " " .. n.small)
      assert(host.stat(path .. ".1").size <= size // 2)
    end
    with.size = 2 << 20
    reqlog.merge(with, host, 1000 * NOW)
    n = count(path .. ".1")
    assert(n.large < 5000 and n.small < 10000 and host.stat(path .. ".1").size <= 1 << 20)
    assert(host.stat(path .. ".1").size > 1000000)
  end),

  ["shares: nobody has more than the level, and together they fit"] = function()
    for _, c in ipairs {
      { { a = 10, b = 10 }, 100, nil }, { { a = 10, b = 1000 }, 100, 90 }, { { a = 500, b = 500, c = 10 }, 100, 45 }, { {}, 100, nil },
      { { a = 0, b = 7 }, 0, 0 },
    } do
      local most = reqlog.level(c[1], c[2])
      if c[3] then is(most, c[3]) else is(most, math.maxinteger) end
    end
    local _, left = reqlog.level({ a = 10, b = 10 }, 100)
    is(left, 80)
  end,

  ["what is too old goes, but not what a clock that was not set dated"] = with_folder(function(path, with)
    put(path .. ".1", ('{"time":%d,"agent":"old"}\n'):format(1000 * (NOW - 2 * 86400)), '{"time":5000,"agent":"unset"}\n',
      ('{"time":%d,"agent":"new"}\n'):format(1000 * (NOW - 86000)))
    reqlog.merge(with, host, 1000 * NOW)
    local n = count(path .. ".1")
    is(n.old, nil)
    is(n.unset, 1)
    is(n.new, 1)
  end),

  ["a file is rotated by its size and by its age, and not twice a second"] = with_folder(function(path, with)
    local clock = { now = NOW }
    local w = writer(with, clock)
    local function some(n)
      for i = 1, n do w:feed(record("a", i)) end
      w:feed("\n")
    end
    some(400)
    is(host.stat(path .. ".1"), nil)
    clock.now = NOW + 1
    some(1)
    assert(host.stat(path .. ".1"))
    is(host.stat(path).size, 0)
    some(1)
    clock.now = NOW + 86400 // 8 - 1
    w:feed("\n")
    is(#lines(path), 1)
    clock.now = NOW + 86400 // 8 + 1
    w:feed("\n")
    is(#lines(path), 0)
    is(#w.said, 0)
  end),

  ["a file over the whole size is rotated at once"] = with_folder(function(path, with)
    local w, most = writer(with), 0
    for i = 1, 3000 do
      w:feed(record("a", i, ("x"):rep(500)))
      if i % 10 == 0 then
        w:feed("\n")
        most = math.max(most, host.stat(path).size + (host.stat(path .. ".1") or { size = 0 }).size)
      end
    end
    assert(most < SIZE + SIZE // 2 + 10000, most)
    is(all(path)[#all(path)], record("a", 3000, ("x"):rep(500)))
  end),

  ["a rotation that was killed loses nothing and shows nothing twice"] = with_folder(function(path, with)
    -- before the merge
    put(path .. ".1", record("a", 1))
    put(path .. ".0", record("a", 2), record("a", 3))
    put(path, record("a", 4))
    is(table.concat(all(path)), record("a", 1) .. record("a", 2) .. record("a", 3) .. record("a", 4))
    -- within it
    put(path .. ".new", record("a", 1):sub(1, 20))
    reqlog.merge(with, host, 1000 * NOW)
    is(#all(path), 4)
    -- before its last step
    put(path .. ".0", record("a", 2), record("a", 3))
    is(#all(path), 4)
    reqlog.merge(with, host, 1000 * NOW)
    is(host.stat(path .. ".0"), nil)
    is(#all(path), 4)
  end),

  ["a file that was moved or removed is begun anew"] = with_folder(function(path, with)
    local w = writer(with)
    w:feed(record("a", 1))
    w:feed("\n")
    os.rename(path, path .. "-moved")
    w:feed(record("a", 2))
    w:feed("\n")
    is(lines(path .. "-moved")[1], record("a", 1))
    is(lines(path)[1], record("a", 2))
    os.remove(path)
    w:feed("\n")
    is(host.stat(path).size, 0)
  end),

  ["what is no plain file of ours is not written to, and that is said once"] = with_folder(function(path, with)
    local target = path .. "-target"
    put(target, "")
    for _, make in ipairs { "ln -s '%s' '%s'", "ln '%s' '%s'", "true '%s'; mkfifo '%s'", "true '%s'; mkdir '%s'" } do
      assert(os.execute(make:format(target, path)))
      local w = writer(with)
      for i = 1, 3 do
        w:feed(record("a", i))
        w:feed("\n")
      end
      is(host.stat(target).size, 0)
      is(#w.said, 1)
      assert(w.said[1]:find("ev=log_dropped", 1, true), w.said[1])
      os.remove(path)
      w:feed(record("a", 9))
      w:feed("\n")
      is(w.said[2], "ev=log_resumed dropped=3")
      is(#lines(path), 1)
      os.remove(path)
    end
  end),

  ["the newest are found from the end, over pieces of any length"] = with_folder(function(path)
    local want = {}
    for i = 1, 3000 do want[i] = record("a", i, ("y"):rep(i % 97)) end
    put(path, table.concat(want), '{"time":1,"torn')
    local set = files.snapshot(host, path)
    local n = 3000
    files.backward(set.now, function(l)
      is(l, want[n])
      n = n - 1
    end)
    is(n, 0)
    -- forward goes on behind them
    put(path, '":1}\n', record("a", 3001))
    local more = {}
    files.forward(set.now, function(l) more[#more + 1] = l end)
    is(#more, 2)
    is(more[2], record("a", 3001))
    files.close(set)
  end),

  ["megabytes without an end of line are passed over"] = with_folder(function(path)
    put(path, record("a", 1), ("z"):rep(5 << 20), "\n", record("a", 2))
    is(#all(path), 2)
    local set, got = files.snapshot(host, path), 0
    files.backward(set.now, function(l) got = got + (reqlog.whole(l) and 1 or 0) end)
    files.close(set)
    is(got, 2)
  end),

  ["who follows sees each record once, through rotations of any kind"] = with_folder(function(path, with)
    local clock = { now = NOW }
    with.size, with.age = 256 << 10, 86400
    local w = writer(with, clock)
    local n, seen = 0, {}
    local function send(times)
      for _ = 1, times do
        n = n + 1
        w:feed(record("a", n))
      end
      w:feed("\n")
    end
    local tail = files.tail(host, path, files.snapshot(host, path))
    local function look()
      tail.poll(function(l) if reqlog.whole(l) then seen[#seen + 1] = tonumber(l:match('"request":"(%x+)"'), 16) end end)
    end
    send(3) look()
    for _ = 1, 6 do                     -- our own, by size, seen each time
      clock.now = clock.now + 1
      send(1200)
      look()
    end
    for _ = 1, 4 do                     -- and by age, when nobody looked
      clock.now = clock.now + 86400 // 8 + 1
      send(3)
    end
    look()
    os.rename(path, path .. "-away")    -- from outside
    put(path .. "-away", "")
    send(2) look()
    os.remove(path)
    send(1) look() look()
    local f <close> = assert(io.open(path, "w"))    -- copytruncate
    look()
    send(2) look() look()
    is(#seen, n)
    for i, id in ipairs(seen) do is(id, i) end
  end),
}
