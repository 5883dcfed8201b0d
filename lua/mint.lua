--- Calls of an API that answer with further credentials: an agent that may make them holds a key after all.
-- A type or a preset lists them as rows { method = "POST" or list, host =, path =, query =, what = "a new token" }:
--   method  any where it is absent; GET means HEAD too. A POST meets them all: in its body it may say what it would
--           rather be (`_method`: Rails, Laravel, Symfony). Small letters are as good as capitals, as for Django.
--   host    exact or "*.example.com"; every host of the credential where it is absent
--   path    "*" stands for something within one segment ("/v1/keys/*", "/v1/accounts/*:signJwt"); "/**" at the end
--           for any rest, or none; "/**/" at the beginning for any path before it, or none: a server of one's own may
--           live below one. Case does not count, nor "/", dots and white space at the end, nor a format behind
--           the last dot (".json": Rails, Grape): a server may ignore each.
--   query   { name = "value" or true }: all of them are there
--   body    { "word", … }: one of them stands in the body, or in the query, where one path takes all calls. The body is
--           read for it, up to body-max. It is no parser: a word in a comment, or in other letters, counts too. Any
--           method will do; and a WebSocket counts for what it may say.
--   graphql { "word", … }: body, for GraphQL: an operation whose text is not in the request (a persisted query, named by
--           its hash or id; multipart, which is not taken apart) has every word, too.
-- A row that is met too often refuses a call; one that is met too seldom gives a key away. So any reading of the
-- path will do, and a path that cannot be read counts as every one.
local M = {}

local ROWS_MAX = 200    -- of a type or preset: a screen or two; a request may be held against all of them

local function check_path(path)
  if type(path) ~= "string" or path:sub(1, 1) ~= "/" then return nil, "has a path that does not begin with '/'" end
  if path:find("[%s%c?#%%]") then return nil, "has a path with a byte that none has" end
  local plain = path:gsub("/%*%*$", ""):gsub("^/%*%*/", "/")
  if plain:find("**", 1, true) then return nil, "has '**' elsewhere than at an end of its path" end
  -- a pattern must not take squares
  if plain:find("%*[^/*]*%*") then return nil, "has two '*' in one segment of its path" end
  return path
end

-- A path as patterns over lower-case readings; `lead`: what it begins with, where that may stand anywhere.
local function patterns_of(path)
  local below = path:match("^/%*%*(/.+)$")
  path = below or path
  local rest = path:match("^(.*)/%*%*$")
  local plain = (rest or path):gsub("(.)/$", "%1")
  local out = {}
  for segment in plain:gmatch("/[^/]*") do
    local before, after = segment:match("^([^*]*)%*(.*)$")
    local function literal(s) return (s:lower():gsub("%W", "%%%0")) end
    out[#out + 1] = before and literal(before) .. "[^/]+" .. literal(after) or literal(segment)
  end
  local pattern, lead = table.concat(out), below and plain:lower():match("^[^*]+") or nil
  if not rest then return { "^" .. pattern .. "$", lead = lead } end
  return { "^" .. pattern .. "$", "^" .. pattern .. "/", lead = lead }
end

local function compile_methods(given)
  if given == nil then return nil end
  local list, has = type(given) == "table" and given or { given }, {}
  for _, m in ipairs(list) do
    if type(m) ~= "string" or not m:find("^[A-Z]+$") then return nil, "has a method that is not in capitals" end
    has[m] = true
    if m == "GET" then has.HEAD = true end
  end
  if not next(has) then return nil, "has an empty list of methods" end
  return has
end

local function compile_host(given)
  if given == nil then return nil end
  local suffix = type(given) == "string" and given:match("^%*%.(.+)$")
  local host = type(given) == "string" and require("http").canonical_host(suffix or given)
  if not host then return nil, "has a malformed host" end
  return { name = host, below = suffix and "." .. host }
end

local function compile_query(given)
  if given == nil then return nil end
  local out = {}
  for name, value in pairs(type(given) == "table" and given or {}) do
    if type(name) ~= "string" or type(value) ~= "string" and value ~= true then
      return nil, "has a query that is not { name = \"value\" or true }"
    end
    out[name] = value
  end
  if not next(out) then return nil, "has a query that is not { name = \"value\" or true }" end
  return out
end

local function compile_words(given)
  if given == nil then return nil end
  local out = {}
  for i, word in ipairs(type(given) == "table" and given or {}) do
    if type(word) ~= "string" or not word:find("^[%a_!][%w_./!-]+$") then
      return nil, "has a body that is no list of words: letters, digits and _ . / ! -"
    end
    out[i] = word:lower()  -- addresses in a batch may be in other letters
  end
  if #out == 0 then return nil, "has a body that is no list of words" end
  return out
end

local row_keys = { method = true, host = true, path = true, query = true, body = true, graphql = true, what = true }

local function compile_row(given)
  if type(given) ~= "table" then return nil, "is not a table" end
  for k in pairs(given) do
    if not row_keys[k] then return nil, ("has no key '%s'%s"):format(tostring(k), require("policy").meant(k, row_keys)), k end
  end
  if type(given.what) ~= "string" or given.what == "" then return nil, "does not say what the call makes" end
  local row, why = { what = given.what }, nil
  row.methods, why = compile_methods(given.method)
  if not why then row.host, why = compile_host(given.host) end
  if not why then row.query, why = compile_query(given.query) end
  if not why then row.words, why = compile_words(given.graphql or given.body) end
  row.graphql = given.graphql ~= nil
  if not why then row.path, why = check_path(given.path) end
  if why then return nil, why end
  local methods = type(given.method) == "table" and table.concat(given.method, ", ") or given.method
  row.given = { method = methods, host = given.host, path = given.path }  -- for people to read
  return row
end

--- The rows of a list, each through compile(row, index), and no other key beside them: as lua/seal.lua's, too.
-- nil, "row 3 has …", 3, the key.
function M.compile_rows(given, compile)
  local out = {}
  for i, row in ipairs(given) do
    local why, key
    out[i], why, key = compile(row, i)
    if not out[i] then return nil, ("row %d %s"):format(i, why), i, key end
  end
  for k in pairs(given) do
    if math.type(k) ~= "integer" or k < 1 or k > #out then
      return nil, ("is a list of rows: it has no key '%s'"):format(tostring(k))
    end
  end
  if #out > ROWS_MAX then return nil, ("has more than %d rows"):format(ROWS_MAX) end
  return out
end

--- Rows as `find` wants them; copies, so that nothing a script does later changes them. As compile_rows answers.
function M.compile(given) return M.compile_rows(given, compile_row) end

local function covers_method(row, q)
  local method = q.method:upper()
  return not row.methods or row.methods[method] or method == "POST" or row.words ~= nil
end

-- Without what servers ignore at the end: a walk from there, for a pattern would try each place where it could begin.
local function trimmed(path)
  local n = #path
  while n > 1 and path:find("^[%s%c./]", n) do n = n - 1 end
  return path:sub(1, n)
end

-- Of a row for any path before it, "^" stands for each place where it could begin.
local function matches(row, path)
  row.patterns = row.patterns or patterns_of(row.path)  -- of hundreds, a few are ever asked
  local lead, at = row.patterns.lead, 1
  while at do
    if lead then at = path:find(lead, at, true) end
    for _, pattern in ipairs(at and row.patterns or {}) do
      if path:find(pattern, at) then return true end
    end
    at = lead and at and at + 1
  end
  return false
end

-- The readings as rows are held against them, once for all rows; nil: it cannot be read.
local function spelt(readings)
  if not readings then return nil end
  local out = {}
  for _, reading in ipairs(readings) do
    local path = trimmed(reading:lower())
    out[#out + 1] = path
    local dot = path:find("%.%w+$")
    if dot then out[#out + 1] = trimmed(path:sub(1, dot - 1)) end
  end
  return out
end

local function covers_path(row, paths)
  for _, path in ipairs(paths or {}) do
    if matches(row, path) then return true end
  end
  return paths == nil
end

local function covers_host(row, host)
  local rule = row.host
  if not rule then return true end
  return rule.below and host:sub(-#rule.below) == rule.below or not rule.below and host == rule.name
end

local function covers_query(row, query)
  if not row.query then return true end
  local pairs_of = require("uri").parse_query(query or "")
  if not pairs_of then return true end  -- malformed: who knows what the server makes of it
  for name, value in pairs(row.query) do
    local met = false
    for _, pair in ipairs(pairs_of) do
      met = met or pair[1] == name and (value == true or pair[2] == value)
    end
    if not met then return false end
  end
  return true
end

local chars = {}    -- "4a", "4A" … -> "J"
for a in ("0123456789abcdefABCDEF"):gmatch(".") do
  for b in ("0123456789abcdefABCDEF"):gmatch(".") do chars[a .. b] = string.char(tonumber(a .. b, 16)) end
end

local BEGIN = 4096       -- bytes; a longer body is not blank
local SLICE = 32768      -- bytes that are looked into in one go: a millisecond or two of the loop's time
local ESCAPE = 12        -- the longest: \u{00000041}
local FOLDED = "\\"      -- among what was found: in YAML a word may go on in the next line, behind this

local function unescape(text)
  if text:find("\\", 1, true) then
    text = text:gsub("\\[uU]00(%x%x)", chars):gsub("\\[uU]{0?0?0?0?0?0?(%x%x)}", chars):gsub("\\x(%x%x)", chars)  -- the last: YAML's
  end
  if text:find("%", 1, true) then text = text:gsub("%%(%x%x)", chars) end
  return text
end

local function bare(text) return text:find("\\", 1, true) and text:gsub("\\+", "") or text end

-- A step of reading a text that comes in pieces: next(what `change` makes of it). Bytes at the end that may begin an escape
-- wait for the next piece: within an escape its first byte does not come again.
local function step(change, next)
  local held = ""
  return function(piece, last)
    local text = held .. piece
    local cut = last and #text + 1 or text:match("()[\\%%][^\\%%]*$", math.max(1, #text - ESCAPE + 1)) or #text + 1
    held = text:sub(cut)
    next(change(text:sub(1, cut - 1)), last)
  end
end

local function each_word(rows, add)
  for _, row in ipairs(rows) do
    for _, word in ipairs(row.words or {}) do add(word) end
  end
end

-- Which of the rows' words stand in the text as a server may read it, whatever stands around them: escapes of JSON and of
-- forms undone. Names have ASCII alone. Twice, and without the backslashes that are left, for a text may hold a text
-- (Shopify runs a mutation that is an argument of another), whose escapes are escaped. No pattern begins with a run: a body
-- may be nothing else. Nothing of the text's size is made.
local function words_in(rows, text, found, pause)
  local left, longest, tail = {}, 1, ""
  each_word(rows, function(word)
    if not found[word] then left[word], longest = true, math.max(longest, #word) end
  end)
  local feed = step(unescape, step(unescape, step(bare, function(piece)
    piece = tail .. piece:lower()
    for word in pairs(left) do
      if piece:find(word, 1, true) then found[word], left[word] = true, nil end
    end
    tail = piece:sub(-longest)
  end)))
  for at = 1, #text, SLICE do
    if pause and at > 1 then pause() end
    found[FOLDED] = found[FOLDED] or text:sub(math.max(1, at - 2), at + SLICE - 1):find("\\\r?\n") ~= nil
    feed(text:sub(at, at + SLICE - 1), at + SLICE > #text)
  end
  return found
end

-- Names by which a request asks for an operation that the server has: Apollo, Relay, Shopify, and their like.
local elsewhere = {
  extensions = true, id = true, documentid = true, doc_id = true, queryid = true, query_id = true, operationid = true,
  hash = true, sha256hash = true, persistedquery = true,
}

local function is_document(v) return type(v) == "string" and v:find("{", 1, true) ~= nil end

-- Parameters of a URL or a form: do they bring a document; do they name one that is elsewhere?
local function looked_into(pairs_of)
  local brings, names = false, false
  for _, pair in ipairs(pairs_of) do
    brings = brings or pair[1] == "query" and is_document(pair[2])
    names = names or elsewhere[pair[1]:lower()] ~= nil
  end
  return brings, names
end

-- May this be an operation of which the request does not say what it does?
local function unread(q, text)
  local uri, kind = require "uri", (q.kind and q.kind() or ""):lower()
  local url = uri.parse_query(q.query or "")
  if not url then return true end
  local brings, names = looked_into(url)
  if #text <= BEGIN and not text:find("%S") then return url[1] ~= nil and not brings end
  if names and not brings then return true end
  if kind:find("^application/graphql%f[^%w+-]") then return not is_document(text) end
  -- Each operation of a JSON body, one or a list of them, must bring its own.
  return kind:find("^multipart/") ~= nil and not text:sub(1, BEGIN):find("^%s*[%[{]") or not require("request").documents(text, "query")
end

-- A body that cannot be looked into, compressed or in a wide encoding, has every word. The second answer: "unread".
local function covers_words(rows, row, q)
  if not row.words or q.websocket then return true end
  if not q.body then return false end  -- nobody sent this request
  if q.sent == nil then
    q.sent, q.coded = q.body()
    q.coded = q.coded or q.sent:find("\0", 1, true)
  end
  if q.coded then return true end
  if q.found_of ~= rows then           -- once for all rows
    q.found_of, q.found = rows, words_in(rows, bare(unescape(unescape(q.query or ""))), words_in(rows, q.sent, {}, q.pause))
  end
  for _, word in ipairs(row.words) do
    if q.found[word] then return true end
  end
  if not row.graphql and q.found[FOLDED] then return true end
  if row.graphql and q.unread == nil then
    if q.pause and #q.sent > SLICE then q.pause() end
    q.unread = unread(q, q.sent)
  end
  return row.graphql and q.unread, row.graphql and q.unread and "unread" or nil
end

-- The rows that method, host, path and query meet.
local function each_met(rows, q)
  local readings, read, at = nil, false, 0
  return function()
    while at < #rows do
      at = at + 1
      local row = rows[at]
      if covers_method(row, q) and covers_host(row, q.host) then
        if not read then
          readings, read = spelt(q.readings()), true
        end
        if covers_path(row, readings) and covers_query(row, q.query) then return row end
      end
    end
  end
end

--- Must the body be read before this request can be judged?
function M.wants_body(rows, q)
  for row in each_met(rows, q) do
    if row.words then return true end
  end
  return false
end

--- What this request would make, by the first row that it meets; nil: nothing. "unread" behind it: for all that can be
-- told of an operation whose text is elsewhere.
-- q = { method, websocket = bool, host, query = as sent, readings = function() -> list | nil,
--       body = function() -> text, whether it is encoded | nil: there is no request yet,
--       kind = function() -> Content-Type | nil,
--       pause = function(): called between two pieces of work that take long; or nil }
function M.find(rows, q)
  for row in each_met(rows, q) do
    local met, how = covers_words(rows, row, q)
    if met then return row.what, how end
  end
end

--- The rows that method, host and path meet, as far as can be told.
function M.met(rows, q)
  local out = {}
  for row in each_met(rows, q) do out[#out + 1] = row end
  return out
end

--- Does the request meet one of the rows by its own method, and however a server may read its path?
function M.surely(rows, q)
  local paths = spelt(q.readings())
  for _, path in ipairs(paths or {}) do
    local met = false
    for _, row in ipairs(rows) do
      met = met or (not row.methods or row.methods[q.method]) and covers_host(row, q.host) and matches(row, path)
    end
    if not met then return false end
  end
  return paths ~= nil and not q.websocket
end

-- For the rows of lua/seal.lua, which name calls in the same way.
M.check_path, M.compile_methods, M.compile_host, M.compile_query = check_path, compile_methods, compile_host, compile_query
M.covers_query = covers_query

return M
