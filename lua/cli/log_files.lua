--- Reading the request log's files while they are written, rotated or moved away: FILE.1, FILE.0, FILE, the oldest first.
-- What is in them may be torn, and a path in them is whatever an agent sent: a line that is no record is passed over.
local reqlog = require "reqlog"
local M = {}

local CHUNK = 1 << 16
local LINE_MAX = 1 << 20        -- more without an end of line is no record
local TRIES = 50                -- a rotation is over in far less, and the next is a second away

-- -> { f =, inode =, at = how far it was read }, or nil: there is none, or it was moved just now
local function open(host, path)
  local st = host.stat(path)
  local f = st and st.type == "file" and io.open(path, "rb")
  if not f then return nil end
  f:setvbuf("no")                 -- a seek in a buffer would give what stood there before a copytruncate
  local now = host.stat(path)
  if now and now.inode == st.inode then return { f = f, inode = st.inode, at = 0 } end
  f:close()
end

-- The whole lines of a text from byte `from` on, and where behind them what is left begins. No pattern: without an end of
-- line it would begin anew at every byte.
local function split(text, from)
  local lines = {}
  while true do
    local nl = text:find("\n", from, true)
    if not nl then return lines, from end
    lines[#lines + 1] = text:sub(from, nl)
    from = nl + 1
  end
end

--- Calls fn(line) for the whole lines of `file`, the newest first, until it answers true. Answers true then. `forward` goes
-- on behind the newest.
function M.backward(file, fn)
  local at, tail = file.f:seek("end"), ""
  file.at = 0
  while at > 0 do
    local n = math.min(CHUNK, at)
    at = at - n
    file.f:seek("set", at)
    local data = (file.f:read(n) or "") .. tail
    -- The first line begins in the part before, unless this is the first.
    local from = at == 0 and 1 or (data:find("\n", 1, true) or #data) + 1
    local lines, rest = split(data, from)
    if file.at == 0 and #lines > 0 then file.at = at + rest - 1 end
    for i = #lines, 1, -1 do
      if fn(lines[i]) then return true end
    end
    tail = from <= LINE_MAX and data:sub(1, from - 1) or ""
  end
  return false
end

--- Reads on from where it was read to: fn(line) for each whole line. A file that became shorter (copytruncate) is read
-- from its beginning.
function M.forward(file, fn)
  local size, rest = file.f:seek("end"), ""
  if size < file.at then file.at = 0 end
  file.f:seek("set", file.at)
  while file.at + #rest < size do
    local data = file.f:read(math.min(CHUNK, size - file.at - #rest))
    if not data then return end
    rest = rest .. data
    local lines, left = split(rest, 1)
    for _, line in ipairs(lines) do fn(line) end
    if #rest - left > LINE_MAX then left = #rest + 1 end
    file.at, rest = file.at + left - 1, rest:sub(left)
  end
end

local function last_record(file)
  local last
  local at = file.at
  M.backward(file, function(line)
    last = reqlog.whole(line) and line or nil
    return last
  end)
  file.at = at
  return last
end

function M.close(list)
  for _, file in pairs(list) do file.f:close() end
end

--- The files as they were at one moment: { old = FILE.1, moved = FILE.0, now = FILE }, those that there are.
function M.snapshot(host, path)
  for _ = 1, TRIES do
    local set = { now = open(host, path), moved = open(host, path .. ".0"), old = open(host, path .. ".1") }
    local same = true
    for key, ending in pairs { now = "", old = ".1" } do
      local st = host.stat(path .. ending)
      same = same and (st and st.type == "file" and st.inode) == (set[key] and set[key].inode)
    end
    if same then
      -- A rotation that was killed at its last step: FILE.1 has what FILE.0 has.
      local last = set.moved and set.old and last_record(set.moved)
      if last and last == last_record(set.old) then
        set.moved.f:close()
        set.moved = nil
      end
      return set
    end
    M.close(set)
  end
  return {}
end

--- In the order of their records.
function M.list(set)
  local list = {}
  for _, key in ipairs { "old", "moved", "now" } do list[#list + 1] = set[key] end
  return list
end

--- The n newest records, the oldest of them first.
function M.newest(host, path, n)
  local json, set = require "json", M.snapshot(host, path)
  local found, list = {}, M.list(set)
  for i = #list, 1, -1 do
    M.backward(list[i], function(line)
      local r = #found < n and reqlog.whole(line) and json.decode(line)
      if type(r) == "table" then found[#found + 1] = r end
      return #found >= n
    end)
  end
  M.close(set)
  for i = 1, #found // 2 do found[i], found[#found + 1 - i] = found[#found + 1 - i], found[i] end
  return found
end

--- Follows: tail.poll(fn) gives what came since. `set` is a snapshot that was read to its end (the files' `at` say so).
function M.tail(host, path, set)
  local tail, now, late, last = {}, set.now, nil, nil
  if set.moved then set.moved.f:close() end
  if set.old then set.old.f:close() end
  if now then last = last_record(now) end

  -- FILE is another one now: what lies between ours and that one is shown too, however often it was rotated.
  local function moved_on(fn)
    local new = M.snapshot(host, path)
    local between, found = {}, false
    if last and new.old and not (new.moved and now and new.moved.inode == now.inode) then
      found = M.backward(new.old, function(line)
        if line == last then return true end
        between[#between + 1] = line
      end)
      for i = found and #between or 0, 1, -1 do fn(between[i]) end
    end
    if new.moved and not (now and new.moved.inode == now.inode) then M.forward(new.moved, fn) end
    if new.old then new.old.f:close() end
    if new.moved then new.moved.f:close() end
    if late then late.f:close() end
    late, now = now, new.now
    if now then M.forward(now, fn) end
  end

  function tail.poll(fn)
    local function each(line)
      last = line
      fn(line)
    end
    -- Who moved it away may have made the new one before the proxy had left the old one.
    if late then M.forward(late, each) end
    if now then M.forward(now, each) end
    local st = host.stat(path)
    if st and st.type == "file" and st.inode ~= (now and now.inode) then
      if now then M.forward(now, each) end
      moved_on(each)
    end
  end
  return tail
end

return M
