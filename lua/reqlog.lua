--- The request log's writer: a process of its own beside the workers (lua/cli/master.lua). It reads their records from a
-- pipe, a line each, and appends them to FILE in batches; beside it commands add a line for what they change.
--   {"time":…}     a record      !N{"time":…}   N (8 hex digits) refusals: beyond 20 a second of one agent they are
--   (empty line)   a batch's end                counted, and written as one record for each code when a batch ends
-- FILE.1 holds what a rotation kept of older ones: the newest 10,000 records of each agent, as far as half of the size
-- goes, and beyond that what there is room for. FILE.0 is there only while that is being decided.
local M = {}
M.__index = M

local EACH = 10000       -- records of an agent that another's flood cannot drive out
local ALONE = 20         -- refusals of an agent in one second that have a record each
local FOLD_MS = 75       -- the others are counted for so long from the time of the first: a record is at most 200 ms behind what happened.
                         -- Not from when it came here: a writer that is behind may find the worker's last two ends of batches at once
local NOTE_MS = 10000    -- a failed handshake, or another protocol: in so long one record of a kind
local NOTES = 256        -- kinds that are told apart at a time
local HOSTS = 4          -- of an agent's whose refusals are counted apart meanwhile: one builds an allow-list from them
local BATCH = 4096       -- records held at most, and
local BATCH_PART = 8     -- this part of log-size: a file passes its size by a batch at most
local FRESH = 1          -- seconds: a file lives so long, so that whoever follows sees each, unless it is over the size
local TRAFFIC_MAX = 512 << 20    -- bytes of a recording: what comes behind them is not kept
local AGE_PART = 8       -- a file spans at most this part of the age, since what is too old goes at rotations

-- Our records begin with their time and agent, and a quote within a string is never bare: the first match is the member.
-- Changes are not an agent's: nobody's flood drives them out.
local function agent_of(line)
  return line:find('^{"time":%d+,"kind":"change"') and "\n" or line:match('"agent":"([^"]*)"') or ""
end
local function time_of(line) return math.tointeger(tonumber(line:match('^{"time":(%d+)[,}]'))) end
M.time_of = time_of

--- Is it a record, whole? What a full disk or a kill left is not.
function M.whole(line) return line:sub(-2) == "}\n" and time_of(line) ~= nil end

local function each_line(paths, fn)
  for _, path in ipairs(paths) do
    local f = io.open(path, "rb")
    if f then
      for line in f:lines("L") do
        if M.whole(line) then fn(line) end
      end
      f:close()
    end
  end
end

--- The most that each of `needs` may have so that all together have at most `room`, and what is left then.
function M.level(needs, room)
  local list = {}
  for _, n in pairs(needs) do list[#list + 1] = n end
  table.sort(list)
  for i, n in ipairs(list) do
    local left = #list - i + 1
    if n * left > room then return room // left, 0 end
    room = room - n
  end
  return math.maxinteger, room
end

-- Of the lines in both files: agent -> bytes of its newest that stay; and agent -> bytes of all.
local function shares(paths, room, fresh)
  local count, bytes, need, rest = {}, {}, {}, {}
  each_line(paths, function(line)
    if not fresh(line) then return end
    local a = agent_of(line)
    count[a], bytes[a] = (count[a] or 0) + 1, (bytes[a] or 0) + #line
  end)
  local seen = {}
  each_line(paths, function(line)
    if not fresh(line) then return end
    local a = agent_of(line)
    seen[a] = (seen[a] or 0) + 1
    if count[a] and seen[a] > count[a] - EACH then need[a] = (need[a] or 0) + #line end
  end)
  local most, left = M.level(need, room)
  for a, n in pairs(need) do rest[a] = bytes[a] - n end
  local more = M.level(rest, left)
  local keep = {}
  for a, n in pairs(need) do keep[a] = math.min(n, most) + math.min(rest[a], more) end
  return keep, bytes
end

local function last_line(path)
  local last
  each_line({ path }, function(line) last = line end)
  return last
end

--- FILE.1 and FILE.0 become FILE.1. with = { path =, size =, age = (s), group =, build = (s) }; now in ms.
function M.merge(with, host, now)
  local old, moved, new = with.path .. ".1", with.path .. ".0", with.path .. ".new"
  -- Killed between the two last steps of an earlier merge: what FILE.0 has is in FILE.1 already.
  local last = last_line(moved)
  if last and last == last_line(old) then return os.remove(moved) end
  local oldest, unset = now - 1000 * with.age, 1000 * with.build
  local function fresh(line)
    local t = time_of(line)
    return t >= oldest or t < unset       -- a clock that was not set says nothing about age
  end
  local paths = { old, moved }
  local keep, left = shares(paths, with.size // 2, fresh)
  os.remove(new)
  local out = assert(host.open_append(new, with.group))
  out:setvbuf("full", 65536)
  each_line(paths, function(line)
    if not fresh(line) then return end
    local a = agent_of(line)
    if left[a] <= keep[a] then assert(out:write(line)) end
    left[a] = left[a] - #line
  end)
  assert(out:close())
  assert(os.rename(new, old))
  return os.remove(moved)
end

--- A writer. env = { host =, json =, ms = Unix ms }
function M.new(with, env)
  return setmetatable({ with = with, host = env.host, json = env.json, ms = env.ms, time = function() return env.ms() // 1000 end,
    batch = {}, bytes = 0, count = {}, folded = {}, notes = { n = 0 }, dropped = 0 }, M)
end

-- Lines of `sallyport record` (recorder.lua) go into a file beside the log, which the command made, and takes away: without it
-- they go nowhere. log-group is for the log: a recording is its owner's alone.
local function write_traffic(self)
  local lines, path = self.traffic, self.with.path .. ".traffic"
  self.traffic = nil
  if not lines or not self.host.stat(path) then return end
  local file = self.host.open_append(path, -1)
  if not file then return end
  file:setvbuf("no")
  if file:seek("end") < TRAFFIC_MAX then file:write(table.concat(lines)) end
  file:close()
end

local function hold(self, line)
  self.batch[#self.batch + 1] = line
  self.bytes = self.bytes + #line
end

-- Opens FILE where it is not open, or is no longer what has the name.
function M:open()
  local path = self.with.path
  local st = self.host.stat(path)
  if self.file and st and st.inode == self.inode then return true end
  if self.file then self.file:close() end
  local why
  self.file, why = self.host.open_append(path, self.with.group)
  if not self.file then return nil, why end
  self.file:setvbuf("no")                 -- one write is one write
  st = self.host.stat(path)
  self.inode, self.opened = st and st.inode, self.time()
  self.began = time_of(self.file:read(64) or "")
  local size = self.file:seek("end")
  self.torn = size > 0 and self.file:seek("set", size - 1) and self.file:read(1) ~= "\n"
  self.file:seek("end")
  return true
end

function M:merge_logged(now)
  local ok, why = pcall(M.merge, self.with, self.host, now)
  if ok then return end
  self.host.log(("ev=log_rotate err=%q"):format(tostring(why)))
  os.remove(self.with.path .. ".new")
  os.rename(self.with.path .. ".0", self.with.path .. ".1")   -- the older half is lost, and the bound is kept
end

-- A merge of 64 MiB takes two seconds: a child process does it, while records go on into FILE. `block`: waits until it is
-- over. True: no merge is running.
local function merged(self, block)
  if not self.merging then return true end
  if not self.host.ended(self.merging, block) then return false end
  self.merging = nil
  if self.host.stat(self.with.path .. ".0") then self:merge_logged(1000 * self.time()) end     -- it was killed
  return true
end

local function rotate_when_due(self)
  local now = self.time()
  local size = self.file:seek("end")
  if not merged(self, size > self.with.size) then return end
  local due = size > self.with.size // 2 or self.began and 1000 * now - self.began > 1000 * self.with.age // AGE_PART
  if not due or now - self.opened < FRESH and size <= self.with.size then return end
  self.file:close()
  self.file = nil
  os.rename(self.with.path, self.with.path .. ".0")
  self:open()
  self.merging = self.host.aside and self.host.aside(function() self:merge_logged(1000 * now) end)
  if not self.merging then self:merge_logged(1000 * now) end
end

--- Writes the batch. What cannot be written is lost, and that is said once.
function M:append()
  local n, text = #self.batch, table.concat(self.batch)
  local first = self.batch[1]
  self.batch, self.bytes = {}, 0
  local ok, why = self:open()
  if ok and n > 0 then
    ok, why = self.file:write(self.torn and "\n" .. text or text)
    self.torn = not ok
    self.began = self.began or time_of(first)
  end
  if not ok then
    if self.dropped == 0 and n > 0 then self.host.log(("ev=log_dropped why=%q"):format(tostring(why))) end
    self.dropped = self.dropped + n
    for _ = 1, self.host.meter and n or 0 do self.host.meter("log_drops", "") end
    return
  end
  if self.dropped > 0 and n > 0 then
    self.host.log(("ev=log_resumed dropped=%d"):format(self.dropped))
    self.dropped = 0
  end
  rotate_when_due(self)
end

local function target(r)
  return ("%s %s:%s%s"):format(r.method or "", r.host or "", math.tointeger(r.port) or "", r.path or "")
end

--- One record for f.n refusals that had none.
local function folded_line(json, f)
  local first, last = json.decode(f.first), json.decode(f.last)
  if not first or not last then return nil end
  local parts = { ('{"time":%d'):format(time_of(f.last)) }
  for _, name in ipairs { "client", "listener", "agent", "decision", "reason", "error" } do
    if last[name] then parts[#parts + 1] = (',"%s":%s'):format(name, json.encode(last[name])) end
  end
  if f.host and last.host then parts[#parts + 1] = ',"host":' .. json.encode(last.host) end
  return ('%s,"count":%d,"first":%s,"last":%s}\n'):format(table.concat(parts), f.n, json.encode(target(first)),
    json.encode(target(last)))
end

-- A second has begun: each agent may have so many records alone again.
local function second(self)
  local now = self.time()
  if now ~= self.window then self.window, self.count = now, {} end
end

-- What was counted becomes records, once it has waited for long enough (or `all`).
local function unfold(self, all)
  local age = self.folded_at and self.ms() - self.folded_at
  if not age or not all and age >= 0 and age < FOLD_MS then return end
  for _, f in ipairs(self.folded) do
    local line = f.n == 1 and f.last or folded_line(self.json, f)
    if line then hold(self, line) end
  end
  self.folded, self.folded_at = {}, nil
end

-- A connection that ended before a request: its reason begins with its code. The next record of its kind tells how many
-- had none; nil: that one is still to come.
local function noted(self, line, n, key)
  local now, note = self.ms(), self.notes[key]
  if note and now < note.till and note.till - now <= NOTE_MS then
    note.n = note.n + n
    return nil
  end
  local more = n - 1 + (note and note.n or 0)
  if not note then self.notes.n = self.notes.n + 1 end
  if self.notes.n > NOTES then self.notes = { n = 1 } end
  self.notes[key] = { till = now + NOTE_MS, n = 0 }
  return more == 0 and line or (line:gsub('("reason":"[^"]*)"', ("%%1, %d times more\""):format(more), 1))
end

local function refused(self, line, n)
  local agent, code, reason = agent_of(line), line:match('"error":"([^"]*)"') or "", line:match('"reason":"([^"]*)"') or ""
  if code ~= "" and reason:sub(1, #code + 2) == code .. ": " then
    line, n = noted(self, line, n, table.concat({ agent, line:match(',"host":"([^"]*)"') or "", reason }, "\n")), 1
    if not line then return end
  end
  second(self)
  local count = (self.count[agent] or 0) + n
  self.count[agent] = count
  if n == 1 and count <= ALONE then
    hold(self, line)
    return
  end
  local host = line:match(',"host":"([^"]*)"') or ""
  local key = agent .. "\n" .. code .. "\n" .. host
  local f = self.folded[key]
  if not f then
    local hosts = self.folded[agent] or 0
    self.folded[agent] = hosts + 1
    if hosts >= HOSTS then key, host = agent .. "\n" .. code, nil end
    f = self.folded[key]
  end
  if not f then
    f = { n = 0, first = line, host = host }
    self.folded[key], self.folded[#self.folded + 1] = f, f
  end
  f.n, f.last = f.n + n, line
  self.folded_at = self.folded_at or time_of(line)
end

--- A line from the pipe.
function M:feed(line)
  local c = line:byte()
  if c == 10 then
    unfold(self, false)
    self:append()
    write_traffic(self)
  elseif c == 33 then
    local n, rest = tonumber(line:sub(2, 9), 16), line:sub(10)
    if n and M.whole(rest) then refused(self, rest, n) end
  elseif M.whole(line) then
    if line:find('^{"time":%d+,"kind":"traffic",') then
      self.traffic = self.traffic or {}
      table.insert(self.traffic, line)
      if #self.traffic >= BATCH then write_traffic(self) end
    else
      hold(self, line)
    end
  end
  if #self.batch >= BATCH or self.bytes >= self.with.size // BATCH_PART then self:append() end
end

--- Nobody is left to send.
function M:finish()
  unfold(self, true)
  self:append()
  write_traffic(self)
  merged(self, true)
end

-- Until the last process that may send records has ended.
local function write_all(with, host, json)
  with.build = host.build_time
  for k, v in pairs(with) do with[k] = math.tointeger(v) or v end
  local w = M.new(with, { host = host, json = json, ms = require("time").wall_ms })
  if host.stat(with.path .. ".0") then w:merge_logged(1000 * os.time()) end
  w:append()
  for line in io.stdin:lines("L") do w:feed(line) end
  w:finish()
end

--- The process. args[1]: JSON of `with`, without build.
function M.run(args)
  local host, json = require "host", require "json"
  local ok, why = pcall(write_all, json.decode(args[1]), host, json)
  if not ok then host.log(('ev=log_failed err="%s"'):format(tostring(why):sub(1, 300))) end
  return ok and 0 or 1
end

return M
