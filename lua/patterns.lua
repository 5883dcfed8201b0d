--- LPeg as policies get it: the same patterns and results, with a bound on what each of them may cost.
-- LPeg's machine cannot be stopped: a match is one instruction of the policy's budget, however long it runs. So a
-- policy's pattern is a table of ours, empty and read-only, and `shape` knows for it
--   p      LPeg's own pattern, which never reaches a policy
--   size   nodes of its tree, at least: LPeg copies and compiles it in time by it
--   kind   "seq" or "choice", or nil
--   high   how far it nests; a long sequence or choice is one level. LPeg compiles in time by size * size * high or so,
--          and by recursion
--   deep   captures within captures: LPeg makes their values by recursion
--   whole  lpeg.C within lpeg.C: LPeg 1.0.2 pushes the value of each without asking Lua's stack for room
--   timed  it has a match-time capture
--   a, b   what a match costs in steps of LPeg's machine that succeeds: at most a + b * (bytes that it consumed)
--   f      what one costs that fails, at most; false: it cannot fail
--   long   bytes that it consumes, at most; math.huge: as many as there are
-- a, b and f are polynomials in n, the bytes of the whole subject: { c0, c1, … } is c0 + c1*n + …
-- A pattern without rules that call themselves is tried at most once at each place where what holds it tries it. From
-- this follow the sums below. A loop's body consumes a byte at least (LPeg refuses others), so a loop is linear where
-- a and b of its body are constants: each byte is paid for once. `1 - p` and `p + q` put what p costs to fail into a
-- of the body: `(P"a"^0 * P"x" + 1)^0` looks at the rest of the subject for each byte, and that makes n*n.
-- Left out on purpose: lpeg.V and tables for lpeg.P (grammars: exponential, and no bound is known), lpeg.Cb (the values
-- of a group twice, and of a group of such twice: exponential too), lpeg.Cmt within lpeg.Cmt (LPeg takes the inner
-- values off its stack in time by their square) or within #patt, and setmaxstack (it holds for all).
local lpeg = require "lpeg"
local charge = require("sandbox.core").charge
local lua = require "unbounded"          -- string.find, gmatch, gsub and match without what bounds them
local M = { lib = {}, utf8 = {} }
local lib = M.lib

local SIZE_MAX = 4000         -- nodes: some 20 ms to compile, however they nest
local HIGH_MAX = 60
local DEEP_MAX = 60           -- some 2 KiB of C stack each
local WHOLE_MAX = 4           -- Lua keeps 5 slots more than are asked for (lstate.h, EXTRA_STACK)
local SUBJECT_MAX = 2048      -- bytes of a subject for a pattern that is not linear
local DEGREE_MAX = 6          -- loops within loops; more cost math.huge
local STEPS_MAX = 32e6        -- of one match: what the whole budget is worth, some 60 ms
local LINEAR_MAX = 128e6      -- where it is linear: 8 MiB of a pattern that takes 16 steps a byte, half a second at worst
local STEPS = 16              -- of a match, that are worth one instruction
local LINEAR_CHARGE = 50      -- instructions at most for a linear match: a scanner calls one for each word
local CAPTURE = 32            -- steps: to make a value is slower than to look at a byte
local BYTES = 16              -- of a value, that are copied or compared in a step

local shape = setmetatable({}, { __mode = "k" })
local meta = { __metatable = false, __index = lib }

-- ---- polynomials ---------------------------------------------------------------------------------

local ZERO, ONE = { 0.0 }, { 1.0 }

local function sum(x, y)
  local out = {}
  for i = 1, math.max(#x, #y) do out[i] = (x[i] or 0) + (y[i] or 0) end
  return out
end

local function more(x, c)
  local out = { table.unpack(x) }
  out[1] = out[1] + c
  return out
end

local function most(x, y)
  local out = {}
  for i = 1, math.max(#x, #y) do out[i] = math.max(x[i] or 0, y[i] or 0) end
  return out
end

local function times(x, c)
  if c == 0 then return ZERO end
  local out = {}
  for i = 1, #x do out[i] = x[i] * c end
  return out
end

-- x times n: what is paid for each byte, for the whole subject.
local function whole(x)
  if #x == 1 and x[1] == 0 then return x end
  if #x > DEGREE_MAX then return { math.huge } end
  return { 0.0, table.unpack(x) }
end

-- What it costs to succeed, however many bytes that takes.
local function spent(x) return sum(x.a, x.long < math.huge and times(x.b, x.long) or whole(x.b)) end

local function at(x, n)
  local v = 0
  for i = #x, 1, -1 do v = v * n + x[i] end
  return v
end

-- ---- patterns ------------------------------------------------------------------------------------

-- Errors name the policy's line: it called the function of `lib` or `meta` that calls these, so it is at level 3.
local function build(f, ...)
  local ok, p = pcall(f, ...)
  if not ok then error(tostring(p):gsub("^[%w/]+%.lua:%d+: ", ""), 3) end  -- "loop body may accept empty string"
  return p
end

-- Before LPeg copies anything.
local function room(size, level)
  if size > SIZE_MAX then error(("the pattern is too large: more than %d parts"):format(SIZE_MAX), level or 3) end
  charge(size // 4)
end

local function new(p, size, long, a, b, f)
  local q = setmetatable({}, meta)
  shape[q] = { p = p, size = size, high = 0, deep = 0, whole = 0, timed = false, long = long, a = a, b = b, f = f }
  return q
end

-- How far a pattern of that kind nests that is made of x and y, before LPeg makes it.
local function height(x, y, kind, level)
  local high = math.max(x.high + (kind and x.kind == kind and 0 or 1), y.high + (kind and y.kind == kind and 0 or 1))
  if high > HIGH_MAX then error(("the pattern nests more than %d levels deep"):format(HIGH_MAX), level or 3) end
  return high
end

-- One that is made of x and y.
local function made(x, y, kind, high, p, size, long, a, b, f)
  local q = new(p, size, long, a, b, f)
  local z = shape[q]
  z.kind, z.high, z.timed = kind, high, x.timed or y.timed
  z.deep, z.whole = math.max(x.deep, y.deep), math.max(x.whole, y.whole)
  return q
end

-- A policy's function that a match calls. Each call counts, also where it is one of C's: else none of them would.
local function counted(f)
  return function(...)
    charge(1 + select("#", ...))
    return f(...)
  end
end

local function literal(v, level)
  local kind = type(v)
  if kind == "string" then
    room(2 * #v, level + 1)
    return new(lpeg.P(v), math.max(2 * #v, 1), #v, ONE, ONE, { #v + 1.0 })
  elseif math.tointeger(v) then
    local n = math.min(math.abs(math.max(math.tointeger(v), -SIZE_MAX)), SIZE_MAX)
    room(2 * n + 1, level + 1)
    return new(lpeg.P(v), 2 * n + 1, n, { n + 2.0 }, ZERO, v ~= 0 and { n + 2.0 })
  elseif kind == "boolean" then
    return new(lpeg.P(v), 1, 0, ONE, ZERO, not v and ONE)
  elseif kind == "function" then
    local q = new(lpeg.P(counted(v)), 2, math.huge, { CAPTURE + 1.0 }, ZERO, { CAPTURE + 1.0 })
    shape[q].timed = true
    return q
  elseif kind == "table" then
    error("a table is a grammar, which policies do not have: write the pattern without rules", level)
  end
  error(("a %s is no pattern"):format(kind), level)
end

-- The shape of an operand.
local function of(v)
  local x = shape[v]
  if x then return x end
  v = literal(v, 4)
  return shape[v]
end

function lib.P(v)
  if shape[v] then return v end
  v = literal(v, 3)
  return v
end

local function set(f)
  return function(...) return new(build(f, ...), 1, 1, ONE, ZERO, ONE) end
end

lib.S, lib.R = set(lpeg.S), set(lpeg.R)

function lib.locale(into)
  local out = into or {}
  for name, p in pairs(lpeg.locale()) do out[name] = new(p, 1, 1, ONE, ZERO, ONE) end
  return out
end

-- x, then y.
local function follow(x, y)
  local f = x.f
  if y.f then
    local late = sum(spent(x), y.f)
    f = f and most(f, late) or late
  end
  return sum(x.a, y.a), most(x.b, y.b), f
end

-- That p is not here: it fails after all that p costs to succeed.
local function absent(x) return more(x.f or ZERO, 2), ZERO, more(spent(x), 2) end

function meta.__mul(v, w)
  local x, y = of(v), of(w)
  local size = x.size + y.size + 1
  room(size)
  local high = height(x, y, "seq")
  return made(x, y, "seq", high, build(function() return x.p * y.p end), size, x.long + y.long, follow(x, y))
end

function meta.__add(v, w)
  local x, y = of(v), of(w)
  local size = x.size + y.size + 1
  room(size)
  local high = height(x, y, "choice")
  local p, long = build(function() return x.p + y.p end), math.max(x.long, y.long)
  if not x.f then return made(x, y, "choice", high, p, size, long, x.a, x.b, false) end
  return made(x, y, "choice", high, p, size, long, more(most(x.a, sum(x.f, y.a)), 2), most(x.b, y.b), y.f and more(sum(x.f, y.f), 2))
end

function meta.__sub(v, w)
  local x, y = of(v), of(w)
  local size = x.size + y.size + 2
  room(size)
  local high = height(x, y) + 1
  local a, b, f = absent(y)
  return made(x, y, "seq", high, build(function() return x.p - y.p end), size, x.long, follow({ a = a, b = b, f = f, long = 0 }, x))
end

function meta.__unm(v)
  local x = of(v)
  room(x.size + 1)
  local high = height(x, x)
  return made(x, x, nil, high, build(function() return -x.p end), x.size + 1, 0, absent(x))
end

-- LPeg 1.0.2 forgets the values that a match-time capture left within: an assertion of its own ends the process.
function meta.__len(v)
  local x = of(v)
  if x.timed then error("a match-time capture within a look-ahead is not for policies", 2) end
  room(x.size + 1)
  local high = height(x, x)
  return made(x, x, nil, high, build(function() return #x.p end), x.size + 1, 0, more(spent(x), 2), ZERO, x.f and more(x.f, 2))
end

function meta.__pow(v, n)
  local x = of(v)
  local count = shape[v] and math.tointeger(n)
  if not count then error("a pattern's power is an integer", 2) end
  local times_n = math.min(math.abs(math.max(count, -SIZE_MAX)), SIZE_MAX)
  local size = (times_n + 1) * (x.size + 3)
  room(size)
  local high = height(x, x) + 1
  local p, fails = build(function() return x.p ^ count end), x.f or ZERO
  if count < 0 then return made(x, x, nil, high, p, size, times_n * x.long, sum(times(more(x.a, 2), times_n), more(fails, 1)), x.b, false) end
  local first = { a = ZERO, b = ZERO, f = false, long = 0 }
  if times_n > 0 then first.a, first.b, first.long = times(x.a, times_n), x.b, times_n * x.long end
  if times_n > 0 and x.f then first.f = sum(spent(first), x.f) end
  return made(x, x, nil, high, p, size, math.huge, follow(first, { a = more(fails, 2), b = more(sum(x.a, x.b), 1), f = false }))
end

-- B looks at a fixed number of bytes, 255 at most.
function lib.B(v)
  local x = of(v)
  room(x.size + 1)
  local high = height(x, x)
  local all = more(sum(x.a, times(x.b, 256)), 2)
  return made(x, x, nil, high, build(lpeg.B, x.p), x.size + 1, 0, all, ZERO, sum(all, x.f or ZERO))
end

-- ---- captures ------------------------------------------------------------------------------------

-- One whose values cost `steps` more, and `a_byte` for each that the pattern consumed. Values are made once a match,
-- also those of `repeats` > 1: there they are made again for each mention (LPeg's string captures).
local function captured(x, p, steps, a_byte, repeats)
  local q = made(x, x, nil, x.high + 1, p, x.size + 1, x.long, more(times(x.a, repeats or 1), CAPTURE + (steps or 0)),
    more(times(x.b, repeats or 1), a_byte or 0), x.f and more(x.f, 2))
  shape[q].deep = x.deep + 1
  return q
end

local function nest(x)
  if x.deep >= DEEP_MAX then error(("more than %d captures within each other"):format(DEEP_MAX), 3) end
  height(x, x, nil, 4)
  room(x.size + 1, 4)
end

local function capture(f, a_byte, whole_of)
  return function(v, ...)
    local x = of(v)
    nest(x)
    local deep = whole_of(x.whole)
    if deep > WHOLE_MAX then error(("more than %d lpeg.C within each other"):format(WHOLE_MAX), 2) end
    local q = captured(x, build(f, x.p, ...), 0, a_byte)
    shape[q].whole = deep
    return q
  end
end

local function one() return 0 end   -- one value, whatever is within

lib.C = capture(lpeg.C, 1 / BYTES, function(n) return n + 1 end)
lib.Cs, lib.Ct = capture(lpeg.Cs, 1 / BYTES, one), capture(lpeg.Ct, 0, one)
lib.Cg = capture(lpeg.Cg, 0, function(n) return n end)

function lib.Cf(v, f)
  local x = of(v)
  nest(x)
  return captured(x, build(lpeg.Cf, x.p, type(f) == "function" and counted(f) or f))
end

function lib.Cp() return new(lpeg.Cp(), 1, 0, { CAPTURE + 0.0 }, ZERO, false) end

function lib.Cc(...)
  local n, bytes = select("#", ...), 0
  room(2 * n + 1)
  for i = 1, n do
    local v = select(i, ...)
    bytes = bytes + (type(v) == "string" and #v or 0)
  end
  return new(build(lpeg.Cc, ...), 2 * n + 1, 0, { CAPTURE * n + bytes / BYTES + 1 }, ZERO, false)
end

-- What lib.match takes beside the subject is as short as a subject.
function lib.Carg(i) return new(build(lpeg.Carg, i), 1, 0, { CAPTURE + SUBJECT_MAX / BYTES }, ZERO, false) end

-- f decides while the pattern is matched: it may fail behind all that its pattern cost.
function lib.Cmt(v, f)
  local x = of(v)
  nest(x)
  if x.timed then error("a match-time capture within another is not for policies", 2) end
  local q = captured(x, build(lpeg.Cmt, x.p, type(f) == "function" and counted(f) or f))
  local z = shape[q]
  z.timed, z.f, z.long = true, more(most(x.f or ZERO, spent(x)), CAPTURE), math.huge
  return q
end

function meta.__div(v, w)
  local x = of(v)
  nest(x)
  if shape[w] then error("a pattern divided by a pattern", 2) end
  if type(w) == "function" then return captured(x, build(function() return x.p / counted(w) end)) end
  if type(w) == "table" then
    local get = counted(function(key)
      local found = w[key]
      if found ~= nil then return found end
    end)
    return captured(x, build(function() return x.p / get end))
  end
  if type(w) ~= "string" then return captured(x, build(function() return x.p / w end)) end
  local _, mentions = w:gsub("%%%d", "")
  return captured(x, build(function() return x.p / w end), #w / BYTES, mentions / BYTES, math.max(mentions, 1))
end

-- ---- matching ------------------------------------------------------------------------------------

local function total(x)
  local all = spent(x)
  return x.f and most(all, x.f) or all
end

--- Steps that it may take on n bytes, at most, and whether they are linear in n: for tests.
function M.cost(p, n)
  local all = total(shape[p])
  return at(all, n), #all <= 2
end

function lib.match(p, s, init, ...)
  local x = shape[p] or of(p)
  local n = type(s) == "string" and #s or type(s) == "number" and #tostring(s)
  if not n then error(("lpeg.match takes a string, not a %s"):format(type(s)), 2) end
  if not x.total then
    x.total = total(x)
    charge(x.size * x.size // 256)   -- LPeg compiles it now
  end
  local steps, linear = at(x.total, n), #x.total <= 2 and x.total[1] < math.huge
  if n > SUBJECT_MAX and not linear then
    error(("the subject is longer than %d bytes, and the pattern is not linear: it repeats or searches within a repetition")
      :format(SUBJECT_MAX), 2)
  end
  if not (steps <= (linear and LINEAR_MAX or STEPS_MAX)) then
    error(("the pattern may take too long on %d bytes: it repeats or searches within repetitions"):format(n), 2)
  end
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    if type(v) == "string" and #v > SUBJECT_MAX then
      error(("a further argument of lpeg.match is longer than %d bytes"):format(SUBJECT_MAX), 2)
    end
  end
  charge((linear and math.min(steps, LINEAR_CHARGE * STEPS) or steps) // STEPS | 0)
  return lpeg.match(x.p, s, init or 1, ...)
end

function lib.type(v) return shape[v] and "pattern" or nil end

lib.version = lpeg.version

-- ---- Lua's string patterns -----------------------------------------------------------------------
-- Lua's own matcher cannot be stopped either: string.find and the others are one instruction. proxy.c (l_str_pattern)
-- lets a call through where `free` knows its pattern and the subject is as short as that, and asks M.judge before any
-- other.
-- A step is one item of the pattern at one place. For the items from the i-th to the last one, on any place:
--   a, b  what a match costs that succeeds: at most a + b * (bytes that it consumed)
--   f     what one costs that fails; false: it cannot fail
-- A repetition tries what follows again for each byte that it may give back or take, so it multiplies f by the bytes
-- that it can run over. It does not where f is false; where what follows begins with a byte that it never takes
-- ("apart": `[^/]*/`); and where it takes every byte and what follows is content with none ("rest": `.*$`).

local PATTERN_MAX = 1000      -- bytes
local FREE = 4000             -- steps: some 20 us
local TRIED_MAX = 64e6        -- steps: a third of a second or so
local LATER = 64              -- steps that cost an instruction beforehand: what gmatch returns runs uncounted
local KEPT_MAX = 500          -- patterns of a few bytes, or fewer long ones; then all are forgotten
local SEEN = 8                -- bytes of a subject that cost an instruction before a class is looked for in them
local RUN = 16                -- runs of a class that are shorter are not told apart

local bytes = {}
for i = 0, 255 do bytes[i + 1] = string.char(i) end
local every = table.concat(bytes)

-- As Lua reads a class: what comes first in a set stands for itself.
local C, Cc, Cg, Ct, P, R, S = lpeg.C, lpeg.Cc, lpeg.Cg, lpeg.Ct, lpeg.P, lpeg.R, lpeg.S
local escaped = P"%" * 1
local set_of = P"[" * P"^"^-1 * (escaped + (1 - P"%")) * (escaped + (1 - S"%]"))^0 * "]"
local class = Cg(escaped + set_of + (1 - S"%["), "class")

local function item(kind, p) return Ct(Cg(Cc(kind), "kind") * p) end
local reader = P"^"^-1 * Ct((item("mark", S"()") + item("last", P"$" * -1) + item("balance", "%b" * Cg(C(1), "open") * 1)
  + item("border", P"%f" * #P"[" * class) + item("again", "%" * R"09") + item("class", class * Cg(S"*+-?"^-1, "suffix")))^0) * -1

-- The steps of one call on n bytes, at most; `runs`: how many bytes each class may run over, where that is known.
local function steps_of(x, n, runs, starts)
  local function cost(longest)
    local a, b, f, nested = 1, 0, false, 0
    for i = #x, 1, -1 do
      local y = x[i]
      local r = longest and (runs and runs[y.class] or n) or 0      -- bytes that the item may run over
      local many, weight, fails = y.many, y.weight, f or 0
      if y.kind == "last" then a, f = a + 1, 1
      elseif y.kind == "balance" then a, b, f = a + 1, math.max(b, 1), r + 1 + fails
      elseif y.kind == "again" then a, b, f = a + 1, math.max(b, 1), r / BYTES + 1 + fails
      elseif y.kind == "mark" then a, f = a + 1, f and f + 1
      elseif not many and y.suffix ~= "?" then a, f = a + weight, weight + fails
      elseif y.suffix == "?" then
        a, f = a + weight + 1 + fails, f and weight + 1 + (y.apart and fails + y.quick or 2 * fails)
      else
        local tried = y.apart and y.quick or fails
        if y.suffix == "-" then a, b = a + 1, math.max(b, weight + tried)
        elseif not f or y.apart or y.rest then a, b = a + 2 + y.quick, math.max(b, weight)
        else a = a + r * (weight + 1 + fails) end
        if not f or y.rest then f = false
        elseif y.apart then f = r * (weight + tried) + weight + 1 + fails
        else
          nested = runs and 1 or nested + 1       -- k of them share n bytes in n^k / k! ways
          f = (r + 1) * (weight + 1) + fails * (r + #x) / nested
        end
        if y.suffix == "+" then f = f or weight end
      end
    end
    return a + (f or 0), b, runs and 1 or nested + 1
  end
  local each, b, shared = cost(true)
  local tries = x.anchored and 1 or x.passes or starts or (n + #x) / shared
  return tries * each + (starts or n) * cost(false) + n * (b + #x)
end

-- The pattern's items with what bounds them; n: a subject may be that long, whatever is in it. Nil: malformed.
local function read(p)
  local x = #p <= PATTERN_MAX and reader:match(p)
  if not x then return nil end
  -- Of what follows: the bytes it begins with; whether it begins with one or is the end; whether it may be nothing;
  -- the steps to see that another byte does not begin it.
  local first, must, nothing, quick = "", false, true, 1
  for i = #x, 1, -1 do
    local y = x[i]
    y.class = y.class or ""
    y.weight = 1 + #y.class // 8
    y.many = y.suffix and lua.find(y.suffix, "^[*+-]") ~= nil
    if y.kind == "class" then
      if #y.class == 1 and y.class ~= "." then y.class = lua.gsub(y.class, "^%p", "%%%0") end
      local own = {}
      for c in lua.gmatch(every, y.class) do own[#own + 1] = c end
      y.apart, y.rest, y.quick = must and not lua.find(first, y.class), nothing and #own == 256, quick
      if y.suffix == "" or y.suffix == "+" then first, must, nothing, quick = "", true, false, 0 end
      first, quick = first .. table.concat(own), quick + y.weight
      must = must and #first < 2000
    elseif y.kind == "last" then first, must = "", true
    elseif y.kind == "balance" then first, must, nothing, quick = y.open, true, false, 1
    elseif y.kind ~= "mark" then must, nothing = false, false
    else quick = quick + 1 end
  end
  x.anchored, x.first = lua.find(p, "^^") ~= nil, must and first ~= "" and first
  -- Where no repetition takes a byte that the pattern begins with, a try runs over as many starts of others as it has
  -- items that take one such byte: all tries together run over the subject so many times.
  x.passes = x.first and 1
  for _, y in ipairs(x) do
    local meets = y.kind == "class" and x.first and lua.find(x.first, y.class)
    if y.kind == "balance" or y.kind == "again" or meets and y.many then x.passes = nil end
    x.passes = x.passes and x.passes + (meets and 1 or 0)
  end
  x.n = 0
  return x
end

local known, kept = {}, 0
--- Pattern -> bytes of a subject on which it may run unasked.
M.free = {}

-- How many bytes of s the class may run over.
local function longest(s, of)
  local most = RUN
  for from, to in lua.gmatch(s, "()" .. of:rep(RUN) .. of .. "*()") do most = math.max(most, to - from) end
  return most
end

-- As steps_of, by the runs that are in s, and by the starts if more than `enough` come of them. What looks for both is
-- C, and as slow as the classes are long: a policy pays beforehand.
local function steps_on(x, s, enough)
  local runs = {}
  for _, y in ipairs(x) do
    if y.many and not runs[y.class] then
      charge(y.class == "." and 0 or #s * y.weight // SEEN)
      runs[y.class] = y.class == "." and #s or longest(s, y.class)
    end
  end
  local steps = steps_of(x, #s, runs, #s)
  if steps <= enough or not x.first or #x.first > 70 then return steps end
  charge(#s * (1 + #x.first // 8) // SEEN // 2)
  return steps_of(x, #s, runs, select(2, lua.gsub(s, "[" .. lua.gsub(x.first, "%W", "%%%0") .. "]", "")))
end

--- Both bounds of the steps that string.find or gsub may take: for tests.
function M.tries(p, s)
  local x = read(p)
  return steps_of(x, #s), steps_on(x, s, 0)
end

--- Raises where string[name](s, p) may take too long.
function M.judge(name, s, p)
  local n, key = #s, p
  if name == "gmatch" and lua.find(p, "^^") then key = "%" .. p end     -- it has no anchor
  local x = known[key]
  if not x then
    x = read(key)
    if not x then error(("malformed pattern '%s', or longer than %d bytes"):format(lua.gsub(p:sub(1, 60), "%c", "?"), PATTERN_MAX), 3) end
    if kept >= KEPT_MAX then
      for k in pairs(known) do known[k], M.free[k] = nil, nil end
      kept = 0
    end
    known[key], kept = x, kept + 1 + #key // 16
  end
  if n <= x.n and name ~= "gmatch" then return end
  local round = 16
  while round < n do round = 2 * round end
  local steps = steps_of(x, round)
  if steps <= FREE then M.free[key] = math.max(M.free[key] or 0, round) end
  if steps <= TRIED_MAX then
    x.n = math.max(x.n, round)
  else
    steps = math.min(steps_of(x, n), steps_on(x, s, TRIED_MAX))
  end
  if steps > TRIED_MAX then
    error(("the pattern '%s' may take too long on %d bytes: it repeats within repetitions"):format(lua.gsub(p:sub(1, 60), "%c", "?"), n), 3)
  end
  if name == "gmatch" then charge(steps // LATER) end
end

-- ---- utf8: what reads a text to its end in one instruction ----------------------------------------

for _, name in ipairs { "char", "charpattern", "codepoint", "codes", "len", "offset" } do M.utf8[name] = utf8[name] end
for _, name in ipairs { "codepoint", "len", "offset" } do
  M.utf8[name] = function(s, ...)
    if type(s) == "string" then charge(#s // BYTES) end
    return utf8[name](s, ...)
  end
end

function meta.__newindex() error("a pattern cannot be set", 2) end

return M
