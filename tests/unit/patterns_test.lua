--- LPeg for policies (lua/patterns.lua): what it may cost is known before it runs, and what it means is LPeg's.
local sandbox, lpeg, patterns = require "sandbox", require "lpeg", require "patterns"

local function run(source, ...)
  return sandbox.call("attack", assert(sandbox.load(source, "@policies/attack.lua", require("allowed").env {})), ...)
end

local function value(source, ...)
  local ok, v = run(source, ...)
  assert(ok, v)
  return v
end

local function refused(source, text)
  local ok, message = run(source)
  assert(not ok, "it ran: " .. source)
  assert(message:find(text, 1, true), ("'%s' does not say '%s'"):format(message, text))
end

local SEEDS = 1200   -- 100,000 held too

-- ---- a random pattern, twice over ----------------------------------------------------------------

-- A generator that gives the same numbers everywhere.
local function dice(seed)
  local x = seed
  return function(n)
    x = (x * 1103515245 + 12345) % 2147483648
    return x // 65536 % n + 1
  end
end

local function always() return true end
local function sometimes(_, at) return at % 3 ~= 0 end
local function join(...) return "<" .. select("#", ...) .. ">" end

-- Each makes { build = function(lib) -> pattern, match = function(s, i, spend) -> end | nil }: what a plain reading of
-- the definition costs, a step a place that is looked at.
local leaves = {
  function() return { build = function(l) return l.P"a" end, match = function(s, i) return s:sub(i, i) == "a" and i + 1 or nil end } end,
  function() return { build = function(l) return l.P"ab" end, match = function(s, i) return s:sub(i, i + 1) == "ab" and i + 2 or nil end } end,
  function() return { build = function(l) return l.S"bc" end, match = function(s, i) return s:find("^[bc]", i) and i + 1 or nil end } end,
  function() return { build = function(l) return l.P(1) end, match = function(s, i) return i <= #s and i + 1 or nil end } end,
  function() return { build = function(l) return l.P"" end, match = function(_, i) return i end } end,
  function() return { build = function(l) return l.P(-1) end, match = function(s, i) return i > #s and i or nil end } end,
  function() return { build = function(l) return l.Cc("x") * l.Cp() end, match = function(_, i) return i end } end,
}

local function times_of(p, n)
  return function(s, i, spend)
    local count = 0
    while n >= 0 or count < -n do
      spend(1)
      local e = p.match(s, i, spend)
      if not e then break end
      i, count = e, count + 1
    end
    return (n < 0 or count >= n) and i or nil
  end
end

local function loop(p) return { build = function(l) return p.build(l) ^ 0 end, match = times_of(p, 0) } end

local function wrap(f) return function(p) return { build = function(l) return f(l, p.build(l)) end, match = p.match } end end

local inner = {
  wrap(function(l, p) return l.C(p) end), wrap(function(l, p) return l.Cs(p) end), wrap(function(l, p) return l.Ct(p) end),
  wrap(function(l, p) return l.Cg(p) end), wrap(function(_, p) return p / join end), wrap(function(_, p) return p / "%0-%0" end),
  wrap(function(_, p) return p / { a = "A" } end), wrap(function(_, p) return p / 0 end),
  wrap(function(l, p) return l.Cmt(p, always) end),
  function(p)
    return { build = function(l) return l.Cmt(p.build(l), sometimes) end, match = function(s, i, spend)
      local e = p.match(s, i, spend)
      return e and sometimes(s, e) and e or nil
    end }
  end,
  function(p) return { build = function(l) return -p.build(l) end, match = function(s, i, spend) return not p.match(s, i, spend) and i or nil end } end,
  function(p) return { build = function(l) return #p.build(l) end, match = function(s, i, spend) return p.match(s, i, spend) and i or nil end } end,
}
for _, n in ipairs { 0, 0, 0, 1, 2, -1, -3 } do
  inner[#inner + 1] = function(p) return { build = function(l) return p.build(l) ^ n end, match = times_of(p, n) } end
end

local outer = {
  function(p, q) return { build = function(l) return p.build(l) * q.build(l) end, match = function(s, i, spend)
    local e = p.match(s, i, spend)
    return e and q.match(s, e, spend)
  end } end,
  function(p, q) return { build = function(l) return p.build(l) + q.build(l) end, match = function(s, i, spend)
    return p.match(s, i, spend) or q.match(s, i, spend)
  end } end,
  function(p, q) return { build = function(l) return p.build(l) - q.build(l) end, match = function(s, i, spend)
    return not q.match(s, i, spend) and p.match(s, i, spend) or nil
  end } end,
}

-- What searches within a repetition: else chance seldom makes one that LPeg takes.
local seq, choice, minus = table.unpack(outer)
local no, ahead = inner[11], inner[12]
local searches = {
  function(p) return loop(choice(seq(p, leaves[1]()), leaves[4]())) end,
  function(p) return loop(seq(no(p), leaves[4]())) end,
  function(p) return loop(seq(ahead(p), leaves[3]())) end,
  function(p) return loop(minus(leaves[4](), p)) end,
}
for _, f in ipairs(searches) do inner[#inner + 1] = f end

local function leaf(p)
  local plain = p.match
  p.match = function(s, i, spend)
    spend(1)
    return plain(s, i, spend)
  end
  return p
end

local function grow(roll, depth)
  if depth == 0 then return leaf(leaves[roll(#leaves)]()) end
  if roll(2) == 1 then return outer[roll(#outer)](grow(roll, depth - 1), grow(roll, depth - 1)) end
  return inner[roll(#inner)](grow(roll, depth - 1))
end

local function show(...)
  local out = table.pack(...)
  for i = 1, out.n do
    if type(out[i]) == "table" then out[i] = "{" .. show(table.unpack(out[i])) .. "}" end
    out[i] = tostring(out[i])
  end
  return table.concat(out, " ", 1, out.n)
end

local function subjects(roll)
  local out = { "", ("a"):rep(24), ("ab"):rep(12), ("a"):rep(20) .. "c" }
  local s = {}
  for i = 1, 24 do s[i] = ("abc"):sub(roll(3)):sub(1, 1) end
  out[5] = table.concat(s)
  return out
end

-- ---- Lua's string patterns -----------------------------------------------------------------------

-- Lua's matcher as its source has it (lstrlib.c), which counts an item at a place as a step. -> end or nil, steps
local function plain_match(p, s, anchored)
  local spent, all = 0, #s
  local match
  local function class_end(i)
    local c = p:sub(i, i)
    if c == "%" then return i + 2 end
    if c ~= "[" then return i + 1 end
    i = i + 1
    if p:sub(i, i) == "^" then i = i + 1 end
    repeat
      i = i + (p:sub(i, i) == "%" and 2 or 1)
    until p:sub(i, i) == "]"
    return i + 1
  end
  local function single(at, i, e)
    spent = spent + 1
    local class = p:sub(i, e - 1)
    return at <= all and s:find("^" .. class, at) ~= nil
  end
  local captures = {}
  function match(at, i)
    spent = spent + 1
    if i > #p then return at end
    local c, two = p:sub(i, i), p:sub(i, i + 1)
    if c == "(" then
      captures[#captures + 1] = { at }
      local e = match(at, i + 1)
      if not e then captures[#captures] = nil end
      return e
    elseif c == ")" then
      local k = #captures
      while captures[k][2] do k = k - 1 end
      captures[k][2] = at
      local e = match(at, i + 1)
      if not e then captures[k][2] = nil end
      return e
    elseif c == "$" and i == #p then return at > all and at or nil
    elseif two == "%b" then
      local open, close, depth = p:sub(i + 2, i + 2), p:sub(i + 3, i + 3), 1
      if s:sub(at, at) ~= open then return nil end
      for k = at + 1, all do
        spent = spent + 1
        local v = s:sub(k, k)
        if v == close then depth = depth - 1 elseif v == open then depth = depth + 1 end
        if depth == 0 then return match(k + 1, i + 4) end
      end
      return nil
    elseif two == "%1" then
      local text = s:sub(captures[1][1], captures[1][2] - 1)
      spent = spent + #text // 16
      return s:sub(at, at + #text - 1) == text and match(at + #text, i + 2) or nil
    end
    local e = class_end(i)
    local suffix = p:sub(e, e)
    if suffix == "?" then
      local found = single(at, i, e) and match(at + 1, e + 1)
      return found or match(at, e + 1)
    elseif suffix == "*" or suffix == "+" then
      local k = at
      while single(k, i, e) do k = k + 1 end
      for back = k, suffix == "+" and at + 1 or at, -1 do
        local found = match(back, e + 1)
        if found then return found end
      end
      return nil
    elseif suffix == "-" then
      while true do
        local found = match(at, e + 1)
        if found then return found end
        if not single(at, i, e) then return nil end
        at = at + 1
      end
    end
    return single(at, i, e) and match(at + 1, e) or nil
  end
  for at = 1, anchored and 1 or all + 1 do
    captures = {}
    local e = match(at, 1)
    if e then return e, spent end
  end
  return nil, spent
end

local function random_pattern(roll)
  local out, open = {}, 0
  local classes = { "a", "b", "%a", "[ab]", "[^a]", ".", "%s", "c", "%W", "[^%s]" }
  for _ = 1, roll(6) do
    local what = roll(16)
    if what == 1 and open == 0 then
      out[#out + 1], open = "(" .. classes[roll(#classes)] .. ({ "", "*", "-" })[roll(3)] .. ")", 1
    elseif what == 2 and open == 1 then out[#out + 1] = "%1"
    elseif what == 3 then out[#out + 1] = "%bab"
    else out[#out + 1] = classes[roll(#classes)] .. ({ "", "", "?", "*", "+", "-" })[roll(6)] end
  end
  if roll(4) == 1 then out[#out + 1] = "$" end
  return table.concat(out)
end

return {
  ["random patterns mean what LPeg's mean, and never cost more than was promised"] = function()
    local built, linear, tight = 0, 0, 0
    for seed = 1, SEEDS do
      local roll = dice(seed)
      local p = grow(roll, 2 + seed % 5)
      local ok, plain = pcall(p.build, lpeg)
      local mine_ok, mine = pcall(p.build, patterns.lib)
      if mine_ok then assert(ok, "LPeg refuses what we take") end
      if not ok and mine_ok then error("seed " .. seed) end
      if mine_ok then
        built = built + 1
        local _, is_linear = patterns.cost(mine, 1)
        linear = linear + (is_linear and 1 or 0)
        for _, s in ipairs(subjects(roll)) do
          local most, spent = patterns.cost(mine, #s), 0
          local e = p.match(s, 1, function(n)
            spent = spent + n
            assert(spent <= most, ("seed %d: more than %.0f steps on '%s'"):format(seed, most, s))
          end)
          tight = math.max(tight, spent / most)
          local want, got = show(pcall(lpeg.match, plain, s)), show(pcall(patterns.lib.match, mine, s))
          if not got:find("may take too long", 1, true) then
            assert(want == got or want:find("^false") and got:find("^false"), ("seed %d on '%s': %s, LPeg says %s"):format(seed, s, got, want))
            assert((e == nil) == (got == "true nil") or got:find("^false"), ("seed %d on '%s'"):format(seed, s))
          end
        end
      end
    end
    assert(built > 400 and linear > 100 and built - linear > 40, ("%d built, %d linear"):format(built, linear))
    assert(tight > 0.2, "the promise is so wide that it says nothing: " .. tight)
  end,

  ["a grammar is refused, and V is not there"] = function()
    assert(value("return lpeg.V == nil and lpeg.P(1).V == nil and lpeg.Cb == nil and lpeg.setmaxstack == nil"))
    refused("return lpeg.P{ 'S', S = lpeg.P'a' }", "a table is a grammar")
    refused("return lpeg.P(1) * { lpeg.P'a' }", "a table is a grammar")
    refused("return lpeg.match({ lpeg.P'a' }, 'a')", "a table is a grammar")
  end,

  ["what repeats within repetitions ends within the budget"] = function()
    local twice = "local P = lpeg.P local p = (P'a'^0 * P'x' + 1)^0 "
    assert(value(twice .. "return p:match(('a'):rep(2048))") == 2049)
    refused(twice .. "return p:match(('a'):rep(2049))", "the pattern is not linear")
    local thrice = twice .. "local q = (p * 'y' + 1)^0 "
    assert(value(thrice .. "return q:match(('a'):rep(50))") == 51)
    refused(thrice .. "return q:match(('a'):rep(2048))", "may take too long on 2048 bytes")
    refused(thrice .. "local r = ((q * 'z' + 1)^0 * 'w' + 1)^0 return ((r * 'v' + 1)^0):match(('a'):rep(100))", "may take too long")
    local ok, _, why = run(twice .. "local s = ('a'):rep(2048) for i = 1, 1000 do pcall(p.match, p, s) end")
    assert(not ok and why == "budget")
  end,

  ["searches within a repetition count as repetitions"] = function()
    for _, p in ipairs { "(1 - P(1)^0 * 'x')^0", "(#(P'a'^0) * 1)^0", "(-(P'a'^0 * 'x') * 1)^0", "((1 - P'x')^0 * 'x' + 1)^0",
        "(lpeg.Cmt(P'a'^1, function() return false end) + 1)^0" } do
      refused("local P = lpeg.P return (" .. p .. "):match(('a'):rep(3000))", "the pattern is not linear")
    end
  end,

  ["linear patterns take long subjects"] = function()
    assert(value("return ((lpeg.C((1 - lpeg.S',')^1) / string.upper * lpeg.P','^-1)^0 / 0 * lpeg.Cp()):match(('abc,'):rep(5000))") == 20001)
    assert(value("return #lpeg.Ct((lpeg.P' '^0 * lpeg.C(lpeg.R'az'^1))^0):match((' abc'):rep(5000))") == 5000)
    assert(value("return ((1 - lpeg.P'-->')^0 * '-->'):match(('-'):rep(100000) .. '-->')") == 100004)
    assert(value([[local w, s, i, n = lpeg.C(lpeg.R'az'^1) * lpeg.Cp(), ('abc '):rep(5000), 1, 0
      while true do local a, j = w:match(s, i) if not a then return n end n, i = n + 1, j + 1 end]]) == 5000)
  end,

  -- A separator of one byte is looked at and left: that costs what it is long, not what the subject is.
  ["the patterns that people write are linear"] = function()
    local head = "local P, S, R, C, Ct, Cs = lpeg.P, lpeg.S, lpeg.R, lpeg.C, lpeg.Ct, lpeg.Cs local ws = S' \\t'^0 "
    for p, part in pairs {
      ["C((1 - P'\\n')^0) * (P'\\n' * C((1 - P'\\n')^0))^0"] = "line\\n",
      ["Ct(C((1 - S'=;')^1) * '=' * C((1 - P';')^0)) * (P'; ' * C((1 - S'=;')^1) * '=' * C((1 - P';')^0))^0"] = "a=b; ",
      ["Cs((P'%' * R('09', 'AF') * R('09', 'AF') / 'x' + 1)^0)"] = "a%20",
      ["Cs((P'--' * (1 - P'\\n')^0 / '' + 1)^0)"] = "x=1 -- c\\n",
      ["P'\"' * Cs((P'\\\\' * C(1) + (1 - S'\"\\\\'))^0)"] = '\\"a',
      ["Ct((C((1 - P':')^1) * ':' * ws * C((1 - P'\\r\\n')^0) * '\\r\\n')^0)"] = "X-A: b\\r\\n",
      ["(P'a'^-3 * #P'b' * -P'cc' * (1 - lpeg.B(P'd')) + 1)^0"] = "aab",
    } do
      assert(value(head .. "return lpeg.match(" .. p .. ", ('" .. part .. "'):rep(5000)) and 1") == 1)
    end
    for _, p in ipairs { "(ws * 'x' + 1)^0", "(1 - ws * P'x')^0" } do
      refused(head .. "return (" .. p .. "):match((' '):rep(3000))", "the pattern is not linear")
    end
  end,

  ["a pattern's size is bounded where it is built"] = function()
    for _, code in ipairs { "local p = lpeg.P'' for i = 1, 200000 do p = p + lpeg.P'a' end", "local p = lpeg.P'a'^1000000", "local p = lpeg.P'a'^-1000000",
        "local p = lpeg.P'a'^math.mininteger", "local p = lpeg.P(1000000)", "local p = lpeg.P(math.mininteger)", "local p = lpeg.P(('a'):rep(100000))",
        "local p = lpeg.P'a' for i = 1, 30 do p = p * p end", "local p = lpeg.P'a' for i = 1, 30 do p = p^2 end",
        "local t = {} for i = 1, 10000 do t[i] = i end local p = lpeg.Cc(table.unpack(t))" } do
      refused(code, "policies/attack.lua:1: the pattern is too large")
    end
    assert(value("local p = lpeg.P(false) for i = 1, 700 do p = p + ('w' .. i % 10) end return p:match'w7'") == 3)
  end,

  ["nesting is bounded: LPeg recurses, and compiles in time by its cube"] = function()
    refused("local p = lpeg.P'a' for i = 1, 100000 do p = -p end", "nests more than")
    refused("local p = lpeg.P'a' for i = 1, 1000 do p = (p + 'b') * 'a' end", "nests more than")
    refused("local p = lpeg.P'a' for i = 1, 1000 do p = lpeg.Ct(p) end", "within each other")
  end,

  ["values within values do not run over Lua's stack"] = function()   -- LPeg 1.0.2 pushes them without asking for room
    refused("local p = lpeg.P'a' for i = 1, 100 do p = lpeg.C(p) end return p:match'a'", "lpeg.C within each other")
    refused("local p = lpeg.P'a' for i = 1, 10 do p = lpeg.Cg(lpeg.C(p)^-1) end return p:match'a'", "lpeg.C within each other")
    assert(value("local p = lpeg.P'a' for i = 1, 4 do p = lpeg.C(p) end return select('#', p:match'a')") == 4)
    assert(value("local p = lpeg.P'a' for i = 1, 10 do p = lpeg.Ct(lpeg.C(p)) end return #p:match'a'") == 2)
  end,

  ["values that are made again for each mention are paid for each time"] = function()
    refused("local p = lpeg.P'a' / '' for i = 1, 30 do p = p / '%1%1' end return p:match'a'", "may take too long")
    refused("return lpeg.Cmt(lpeg.Cmt(1, function() return true, 1 end)^0, function() return true end)", "match-time capture within another")
    refused("return lpeg.match(lpeg.Carg(1), '', 1, ('x'):rep(3000))", "longer than 2048 bytes")
    refused("local big = ('x'):rep(1 << 21) return lpeg.match(lpeg.Cs((1 * lpeg.Cg(lpeg.Cc'' * (lpeg.Cc(big) / '%1')))^0), ('a'):rep(2000))", "may take too long")
    assert(value("return lpeg.match(lpeg.Carg(1), '', 1, 'x') .. tostring(lpeg.P(1.0):match('a'))") == "x2")
  end,

  ["a match-time capture within a look-ahead is refused: LPeg would end the process"] = function()
    refused("return (#lpeg.Cmt(lpeg.Cc(1), function() return true, 1 end)):match'a'", "within a look-ahead")
    refused("return (#lpeg.P(function(s, i) return i, 1 end)):match'a'", "within a look-ahead")
    refused("return (#(lpeg.P'a' * lpeg.P(string.len) / 0)):match'a'", "within a look-ahead")
    assert(value("return (-lpeg.Cmt(lpeg.Cc(1), function() return true, 1 end) + 1):match'a'") == 2)
  end,

  ["functions that a match calls count, C's too"] = function()
    local ok, _, why = run("local p = (lpeg.P(1) / type)^0 / 0 local q = lpeg.Cf(lpeg.Cc(0) * (lpeg.P(1) / 'x')^0, select) " ..
      "for i = 1, 1e9 do lpeg.Cmt(1, math.type):match('x') end")
    assert(not ok and (why == "budget" or why == "time"))
  end,

  ["LPeg's own refusals name the policy's line"] = function()
    refused("\nlocal p = (lpeg.P'a'^0)^0", "policies/attack.lua:2: loop body may accept empty string")
    refused("\n\nlocal p = lpeg.P'a' * nil", "policies/attack.lua:3: a nil is no pattern")
    refused("\nlocal p = lpeg.P'a' / lpeg.P'b'", "policies/attack.lua:2: a pattern divided by a pattern")
    refused("\nlocal p = lpeg.P'a'^1.5", "policies/attack.lua:2: a pattern's power is an integer")
    refused("\nlocal p = lpeg.match(lpeg.P'a', {})", "policies/attack.lua:2: lpeg.match takes a string, not a table")
  end,

  ["a pattern shows and takes nothing"] = function()
    assert(value("local p = lpeg.P'a' return next(p) == nil and p.p == nil and p.shape == nil and lpeg.type(p) == 'pattern' and lpeg.type('a') == nil"))
    refused("local p = lpeg.P'a' p.match = nil", "a pattern cannot be set")
    refused("table.move({ 1 }, 1, 1, 1, lpeg.P'a')", "a pattern cannot be set")
    assert(value("return ('a' * lpeg.P'b'):match'ab' == 3 and ('a' + lpeg.P'b'):match'a' == 2 and (2 * lpeg.P'c'):match'abc' == 4 and lpeg.locale().digit:match'1' == 2"))
  end,

  ["the runtime's own patterns are LPeg's"] = function()
    assert(lpeg.V and lpeg.type(lpeg.P(1)) == "pattern" and lpeg.P(1) ~= patterns.lib.P(1))
  end,

  ["no string pattern takes more steps than it may"] = function()
    local texts = {}
    for i, part in ipairs { "a", "b", "ab", " ", "aab c", "a b", "ba", "c" } do texts[i] = part:rep(24 // #part) end
    for seed = 1, SEEDS do
      local roll = dice(seed)
      local p = random_pattern(roll)
      local s = texts[roll(#texts)] .. texts[roll(#texts)]:sub(1, roll(9)) .. texts[roll(#texts)]:sub(1, roll(9))
      for _, anchored in ipairs { false, true } do
        local whole = anchored and "^" .. p or p
        local e, steps = plain_match(p, s, anchored)
        local _, to = s:find(whole)
        assert(to == (e and e - 1), ("'%s' on '%s' ends at %s, not at %s"):format(whole, s, to, e))
        local may = math.min(patterns.tries(whole, s))
        assert(steps <= 3 * may, ("'%s' on '%s' took %d steps, may take %g"):format(whole, s, steps, may))
      end
    end
  end,
}
