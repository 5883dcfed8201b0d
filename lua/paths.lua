--- The ways in which servers may read a path, so that `a%2Fb` is seen by every rule as every server may see it.
--
-- Paths whose segments hold slashes of their own, percent-encoded: GitLab's /projects/acme%2Fsite, npm's /@scope%2fname.
-- A rule that is written so covers the requests that bear exactly these segments; what stands behind them is read in
-- every way, as any path is. Everything else about such a path stays ambiguous.
local M = {}

local PREFIX_MAX = 1024   -- bytes of a rule, as in records.lua
local WAYS_MAX = 64       -- readings of one path: five habits freely combined make 32
local WAYS_BYTES = 65536  -- of all of them: 64 of 1 KiB, or fewer longer ones
local DECODINGS = 2       -- once by a gateway and once behind it

-- What servers, frameworks and gateways do to a path before they look at it.
local function backslash(s) return (s:gsub("\\", "/")) end  -- it is a slash: IIS; parsers that follow the URL standard

-- ";…" goes: /..;/ is /../ to Tomcat, Jetty, Spring; so does a query that was encoded
local function parameters(s) return (s:match("^[^?#]*"):gsub(";[^/]*", "")) end

local function merge(s) return (s:gsub("//+", "/")) end  -- "//" is "/": nginx merge_slashes, Go's ServeMux

-- RFC 3986 5.2.4, before or after decoding; at the end the slash stays
local function dots(s)
  if not s:find("/%.%.?%f[/\0]") then return s end
  local out, n = {}, 0
  for segment in s:gmatch("/[^/]*") do
    if segment == "/.." then
      n = n > 0 and n - 1 or 0
    elseif segment ~= "/." then
      n = n + 1
      out[n] = segment
    end
  end
  return table.concat(out, "", 1, n) .. (s:find("/%.%.?$") and "/" or "")
end

local coded = setmetatable({}, { __index = function(t, hex)
  t[hex] = string.char(tonumber(hex, 16))
  return t[hex]
end })
local function decode(s) return (s:gsub("%%(%x%x)", coded)) end

-- all but slashes: Envoy, Kong, Apache NoDecode
local no_slash = setmetatable({ ["2f"] = false, ["2F"] = false, ["5c"] = false, ["5C"] = false }, { __index = coded })
local function decode_no_slash(s) return (s:gsub("%%(%x%x)", no_slash)) end

M.habits = { backslash, parameters, merge, dots }
M.decoders = { decode, decode_no_slash }

-- No rule can judge a control byte, which ends or splits the path somewhere, or overlong UTF-8, which lenient decoders
-- take for the "/" or "." that it hides (CVE-2000-0884).
local function sane(s)
  return not (s:find("%c") or s:find("[\xc0\xc1][\x80-\xbf]") or s:find("\xe0[\x80-\x9f]") or s:find("\xf0[\x80-\x8f]"))
end

--- The ways in which servers may read a path, itself first: { reading… } | nil, where a path rule must refuse: the path
-- does not begin with "/", has a "%" that begins no %XX (servers keep it, drop it or fail), is not sane in some reading,
-- or has more readings than WAYS_MAX, or longer ones than WAYS_BYTES.
--
-- All habits in all orders, each as often as it changes anything, decoding at most twice: the closure, so that no order
-- of gateway, framework and handler is missing.
function M.ways(path)
  if path:find("^/[^%c\x80-\xff%%\\;?#]*$") and not path:find("//", 1, true) and not path:find("/.", 1, true) then return { path } end
  local ended = path .. "/"
  if path:byte() ~= 47 or not sane(path) or ended:find("%%%X") or ended:find("%%%x%X") then return nil end
  local list, seen, room, from = { path }, { [path] = true }, WAYS_BYTES, 1
  local function add(s, habits)
    for _, habit in ipairs(habits) do
      if #s > room then return false end
      local reading = habit(s)
      if not seen[reading] then
        if #list == WAYS_MAX or not sane(reading) then return false end
        seen[reading], list[#list + 1], room = true, reading, room - #reading
      end
    end
    return true
  end
  for depth = 0, DECODINGS do
    local i = from
    while list[i] do
      if not add(list[i], M.habits) then return nil end
      i = i + 1
    end
    if depth == DECODINGS then break end
    local last = #list
    for k = from, last do
      if not add(list[k], M.decoders) then return nil end
    end
    from = last + 1
  end
  return list
end

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

--- The ways in which servers may read a path, itself first | nil, where no rule can judge it. read: M.ways.
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
