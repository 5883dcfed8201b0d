--- Counters of rules, which all workers share (section count of proxy.c); those that a rule wants kept are written to the store
-- each second, and a server that starts goes on from there. A kill loses what was counted in its last second.
local host, time = require "host", require "time"
local M = {}

local WINDOW_MAX = 40 * 86400   -- s
local BATCH = 200               -- counters that one commit writes
local COMMIT = 10000            -- ms
local NAMES_MAX = 500           -- whose key is kept
local keys, kept_keys = {}, 0   -- window -> { name = { key = of the counter, text = a kept one's name in the store, kept = its key } }
local dirty, writing = {}, false        -- name -> { ends, owner }: those that changed since they were written

--- When a window ends, that `wall` lies in: of so many seconds since 1970, of a "day" or a "month" in UTC. nil: it is none.
function M.ends(window, wall)
  if window == "day" then window = 86400 end
  if window == "month" then
    local dates = require "dates"
    local y, m = dates.iso(wall):match("^(%d+)-(%d+)")
    y, m = tonumber(y), tonumber(m)
    return dates.seconds(tostring(m == 12 and y + 1 or y), m == 12 and 1 or m + 1, "01", "00", "00", "00")
  end
  if math.type(window) ~= "integer" or window < 1 or window > WINDOW_MAX then return nil end
  return (wall // window + 1) * window
end

-- As host.count has it.
local function key(hash) return tonumber("0x" .. hash:sub(1, 16)) end

local function keys_of(name, window)
  local of = keys[window]
  local known = of and of[name]
  if known then return known end
  if kept_keys >= NAMES_MAX then keys, kept_keys = {}, 0 end
  local text = host.sha256_hex(name .. "\n" .. window)
  known = { text = text, key = key(text) }
  keys[window] = keys[window] or {}
  keys[window][name], kept_keys = known, kept_keys + 1
  return known
end

--- Adds n to the counter of that name and window -> what it has then | nil: it cannot be counted. owner: the agent of whose share it is.
function M.add(name, window, n, owner, kept)
  local ends = M.ends(window, time.wall())
  local known = keys_of(name, window)
  if kept then
    dirty[known.text], known.kept = { ends, owner }, known.kept or key(host.sha256_hex(known.text))
  end
  return host.count(kept and known.kept or known.key, ends, n, owner)
end

--- What a counter has, or nil where nothing was counted, and when its window ends. None is made by a look.
function M.look(name, window, kept)
  local ends = M.ends(window, time.wall())
  name = name .. "\n" .. window        -- not among the keys that requests have kept
  return host.count(kept and host.sha256_hex(name) or name, ends, 0, "", true), ends
end

local PROBES = 20       -- owners whose share one look tries

--- Whether no further counter could be made: f(owner | nil) -> bool. It tries with one of no name, for a second or two.
function M.fullness()
  local known, n = {}, 0
  return function(owner)
    owner = owner or ""
    if known[owner] == nil and n < PROBES then
      n = n + 1
      known[owner] = host.count(key(host.sha256_hex((host.random_token ""))), time.wall() + 2, 0, owner) == nil
    end
    return known[owner] or false
  end
end

--- The same of one that is kept, as the store has it: of a server that does not run, and of another process. 0: nothing is kept.
function M.kept(name, window)
  local ends = M.ends(window, time.wall())
  local record = require("store").peek("counter", host.sha256_hex(name .. "\n" .. window))
  return record and record.ends == ends and record.n or 0, ends
end

--- What names the store whose rules are counted here, to whoever asks for their counters: derived of its key.
function M.store() return require("store").derive "counters" end

local function write()
  local ops, names = {}, {}
  for name, of in pairs(dirty) do
    local n = host.count(name, of[1], 0, of[2])
    if n then ops[#ops + 1] = { op = "put", db = "counter", key = name, plain = { ends = of[1], owner = of[2], n = n } } end
    names[#names + 1] = name
    if #names >= BATCH then break end
  end
  for _, name in ipairs(names) do dirty[name] = nil end
  if ops[1] then
    local ok, code = require("store").commit(ops, time.now() + COMMIT)
    if not ok then host.log("ev=counters err=" .. tostring(code)) end
  end
end

--- Writes what changed; each second.
function M.tick()
  if writing or not next(dirty) then return end
  writing = true
  host.spawn(function()
    local _ <close> = setmetatable({}, { __close = function() writing = false end })
    write()
  end)
end

--- What the store has goes on, where nothing was counted yet; as a worker starts.
function M.load()
  local store, wall, after = require "store", time.wall(), nil
  repeat
    local page = store.each("counter", "", after, 64)
    for _, row in ipairs(page) do
      after = row.key
      local r = row.record
      if r and r.ends > wall then host.count(row.key, r.ends, r.n, r.owner, true) end
    end
  until #page < 64
end

return M
