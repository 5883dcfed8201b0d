--- Paths whose segments hold slashes of their own, percent-encoded: GitLab's /projects/acme%2Fsite, npm's /@scope%2fname.
-- A rule that is written so covers the requests that bear exactly these segments; what stands behind them is read in
-- every way, as any path is. Everything else about such a path stays ambiguous.
local M = {}

local PREFIX_MAX = 1024   -- bytes of a rule, as in records.lua

-- The beginnings of the path, up to the end of a segment, that are a rule's, the longest last: { { what stands for it in a
-- reading, what is left of the path }… }
local function beginnings(path, known)
  local list = {}
  local at = path:find("/", path:find("%%2[Ff]"), true) or #path + 1
  while at <= PREFIX_MAX + 1 do
    local prefix = path:sub(1, at - 1):gsub("%%2f", "%%2F")
    local text = known(prefix)
    local below = not text and at <= #path and known(prefix .. "/")
    if text or below then list[#list + 1] = { text or below:sub(1, -2), path:sub(at) } end
    if at > #path then break end
    at = path:find("/", at + 1, true) or #path + 1
  end
  return list
end

-- The readings of what is left, below a segment that no reading of it can imitate: one that climbs out shows. The
-- list | false: it cannot be read | nil: a reading climbs out.
local function readings_below(read, held, rest)
  local alone = read(rest ~= "" and rest or "/")
  if not alone then return false end
  local n = 0
  for _, reading in ipairs(alone) do
    for run in reading:gmatch("~+") do n = math.max(n, #run) end
  end
  local top = "/" .. ("~"):rep(n + 1)
  local list = read(top .. rest)
  for i, reading in ipairs(list or {}) do
    if reading ~= top and reading:sub(1, #top + 1) ~= top .. "/" then return nil end
    list[i] = held .. reading:sub(#top + 1)
  end
  return list or false
end

--- The ways in which servers may read a path, itself first | nil, where no rule can judge it. read: http.path_readings.
-- known(prefix): is this, with its slashes as "%2F", the path of a rule? Then the text that stands for it in a reading.
function M.readings(read, path, known)
  local list = known and path:find("%%2[Ff]") and beginnings(path, known) or {}
  for i = #list, 1, -1 do
    local readings = readings_below(read, list[i][1], list[i][2])
    if readings ~= nil then return readings or nil end
  end
  return read(path)
end

--- The paths of a rule, and for those of an API that takes some of them in one segment, the same so written. bases:
-- where such a segment may begin ("/api/v4/projects/"); it holds two names at least.
function M.spread(paths, bases)
  local out = table.move(paths, 1, #paths, 1, {})
  for _, path in ipairs(paths) do
    for _, base in ipairs(bases) do
      local _, last = path:find(base, 1, true)
      local names = {}
      for name in (last and path:sub(last + 1) or ""):gmatch("[^/]+") do names[#names + 1] = name end
      for n = 2, #names do
        local more = table.concat(names, "/", n + 1)
        out[#out + 1] = path:sub(1, last) .. table.concat(names, "%2F", 1, n) .. (more ~= "" and "/" .. more or "")
      end
    end
  end
  return out
end

return M
