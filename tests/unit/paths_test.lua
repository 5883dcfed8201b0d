--- lua/paths.lua: the ways in which servers may read a path, and what a rule about a prefix makes of them.
local paths = require "paths"

-- Under a rule for the first, the second lies inside in every reading, outside in every reading, or one of both.
local judged = {
  inside = {
    { "/public", "/public" },
    { "/public", "/public/" },
    { "/public", "/public/a" },
    { "/public", "/public/a%20b" },
    { "/public", "/public/a/../b" },
    { "/public", "/public/./a" },
    { "/public", "/public//a" },
    { "/public", "/public/a;v=1" },
    { "/public", "/public/%e4" },
    { "/public", "/public/100%25" },
    { "/api/v4", "/api/v4/projects/group%2Fproj" },
    { "/api/v4/projects", "/api/v4/projects/group%2Fproj" },
    { "/", "/@scope%2fname" },
    { "/@scope", "/@scope/name" },
    { "/", "/../..//%2e%2e/;x" },
    { "/v1/", "/v1/a" },
  },
  outside = {
    { "/public", "/publicity" },
    { "/public", "/publi" },
    { "/public", "/admin" },
    { "/public", "/" },
    { "/public", "/PUBLIC" },
    { "/public", "/public.json" },
    { "/public", "/admin/public" },
    { "/other", "/@scope%2fname" },
    { "/v1/", "/v1" },
    { "/v1", "/v10" },
  },
  ambiguous = {
    { "/public", "/public/../admin" },
    { "/public", "/public/.." },
    { "/public", "/public/a/../../admin" },
    { "/public", "/public/%2e%2e/admin" },
    { "/public", "/public/%2E./admin" },
    { "/public", "/public/.%2e/admin" },
    { "/public", "/public/%252e%252e/admin" },
    { "/public", "/public/%252e%252e%252fadmin" },
    { "/public", "/public/%25%32%65%25%32%65/admin" },
    { "/public", "/public%2f..%2fadmin" },
    { "/public", "/public/..%2fadmin" },
    { "/public", "/public/..%5cadmin" },
    { "/public", "/public/..\\admin" },
    { "/public", "/public\\..\\admin" },
    { "/public", "/public/..;/admin" },
    { "/public", "/public/..;x=1/admin" },
    { "/public", "/public/..%3b/admin" },
    { "/public", "/public/%2e%2e;x/admin" },
    { "/public", "/public//../admin" },
    { "/public", "/public/;/../admin" },
    { "/public", "/public/a%2fb/%2e%2e/%2e%2e/x" },
    { "/public", "/public/a%2f../../x" },
    { "/public", "/public/a%2fb/..%3b/..%3b/x" },
    { "/public", "/public/a%5cb/%2e%2e/%2e%2e/x" },
    { "/public", "/admin/../public" },
    { "/public", "//public" },
    { "/public", "/%70ublic" },
    { "/public", "/public;x" },
    { "/public", "/public%2fa" },
    { "/public", "/public;/../admin" },
    { "/public", "/x/%2e%2e/public/a" },
    { "/@scope", "/@scope%2fname" },
  },
  refused = {
    { "/public", "/public/%00" },
    { "/public", "/public/%2500" },
    { "/public", "/public/%0a" },
    { "/public", "/public/%0d%0aX: y" },
    { "/public", "/public/%7f" },
    { "/public", "/public/\001" },
    { "/public", "/public/%zz" },
    { "/public", "/public/%" },
    { "/public", "/public/%2" },
    { "/public", "/public/%u002e" },
    { "/public", "/public/%c0%ae%c0%ae/admin" },
    { "/public", "/public/..%c0%afadmin" },
    { "/public", "/public/%e0%80%ae" },
    { "/public", "" },
    { "/public", "public" },
    { "/public", "*" },
  },
}

-- What lua/config.lua and policies/match.lua make of a prefix: "/v1" covers "/v1" and "/v1/…", not "/v10".
local function covers(prefix, path)
  return path:sub(1, #prefix) == prefix and (#path == #prefix or prefix:sub(-1) == "/" or path:sub(#prefix + 1, #prefix + 1) == "/")
end

local function judge(prefix, path)
  local list, inside = paths.ways(path), 0
  for _, reading in ipairs(list or {}) do inside = inside + (covers(prefix, reading) and 1 or 0) end
  return not list and "refused" or inside == 0 and "outside" or inside == #list and "inside" or "ambiguous"
end

-- Each habit on each reading brings nothing new, nor does decoding the path itself once or twice: no order of gateways
-- and servers is left out. Each reading begins with a slash, the first is the path, and none stands there twice.
local function closed(path)
  local list, there = paths.ways(path), {}
  if not list then return false end
  assert(list[1] == path and #list <= 64, path)
  for _, reading in ipairs(list) do
    assert(reading:find("^/") and not reading:find("%c") and #reading <= #path and not there[reading], path)
    there[reading] = true
  end
  for _, reading in ipairs(list) do
    for _, habit in ipairs(paths.habits) do assert(there[habit(reading)], path) end
  end
  for _, first in ipairs(paths.decoders) do
    for _, second in ipairs(paths.decoders) do assert(there[first(path)] and there[second(first(path))], path) end
  end
  return true
end

return {
  ["paths under a rule, and every beginning of them"] = function()
    for verdict, rows in pairs(judged) do
      for _, row in ipairs(rows) do
        local got = judge(row[1], row[2])
        assert(got == verdict, ("%q under %s is %s"):format(row[2], row[1], got))
        for n = 0, #row[2] do closed(row[2]:sub(1, n)) end
      end
    end
  end,
  ["the first reading is the path itself"] = function()
    local list = paths.ways("/a/b.c/%41")
    assert(#list == 2 and list[1] == "/a/b.c/%41" and list[2] == "/a/b.c/A")
  end,
  ["a plain path has one reading"] = function() assert(#paths.ways("/v1/Users/.well-known/x.y~z/") == 1) end,
  ["all habits at once fit"] = function() assert(#paths.ways("/a//b/%2e%2e/c;x=1/d%2fe") > 16) end,
  ["long paths end, and what they take is bounded"] = function()
    assert(#paths.ways(("/"):rep(40000)) == 2)
    for _, unit in ipairs { "/%2e", "/./", "/a/..", "/%2f;", "/%252e", "\\;?" } do
      local bytes = 0
      for i, reading in ipairs(paths.ways("/" .. unit:rep(40000 // #unit)) or {}) do bytes = bytes + (i > 1 and #reading or 0) end
      assert(bytes <= 65536, unit)
    end
  end,
  ["no order of habits brings another reading"] = function()
    local pieces = { "/", "/", "/", ".", "..", "a", "%2f", "%5C", "\\", ";", "x=1", "%2e", "%252e", "%252F", "%25", "?", "#", "%3b", "%c3%a4",
      "%", "%00", "%c0%af", "\xe0\x80", "\1" }
    local seed, judged_too = 1, 0
    local function draw(n)
      seed = seed * 6364136223846793005 + 1442695040888963407    -- Knuth's MMIX: the same paths each time
      return (seed >> 33) % n + 1
    end
    for _ = 1, 3000 do
      local path = { "/" }
      for _ = 1, draw(9) do path[#path + 1] = pieces[draw(draw(4) == 1 and #pieces or 19)] end
      if closed(table.concat(path)) then judged_too = judged_too + 1 end
    end
    assert(judged_too > 1000)
  end,
  ["paths that were found by random bytes"] = function()
    for _, path in ipairs { "/api/v4/projects/acme%2Fsite/../../other", "/api/v4/projects/acme%2Fsite%2F..%2Fother", "/@scope%2fname/%2e%2e%2f;x/..%5c",
      "/a//b/%2e%2e/c;x=1/d%2fe\\..", "/a%2fb%252e/..;x/", "/.././..", "/%2e%2e%5c%2E", "/public/%25%32%65%252e/admin" } do
      assert(closed(path), path)
    end
  end,
}
