--- What a request's body is to servers that take parameters from it. Everything here that asks so asks this module: the
-- rule on methods (`_method`), body_parameter, mint, stand-ins.
--
-- body.of(headers), body.of_type(Content-Type | nil) -> {
--   form, json, multipart   booleans: some server would take the body for one
--   kind                    "form" | "json" | "multipart": what its type says it is, and nothing else; or nil
--   bare                    it has no type
--   why                     nil | a reason why it cannot be looked into
--   media, boundary         of the type }
-- body.carries(of, text, names [, pause]) -> true: a server may find a parameter of one of these names in it |
--   false | nil, why
-- body.batch(of, text, path, allowed [, pause]) -> true: it is a batch, and too long or with a method that is not in
--   the set
local request = require "request"
local lpeg = require "lpeg"
local M = {}

local HEAD_MAX = 8192   -- bytes before one part's content
local HEADS_MAX = 256 << 10     -- and before those of all of them
local PARTS_TURN = 100  -- of them in one turn
local BEGIN = 4096      -- bytes in which a body begins, or goes on behind its last part
local PARTS_MAX = 1000  -- of a multipart body: PHP's max_input_vars
local BATCH_MAX = 4 << 20       -- bytes of a batch of requests: Azure's
local SLICE = 1 << 20   -- bytes that are searched in one turn, and copied meanwhile

-- RFC 9110 section 8.3.1: type/subtype *( ";" name=value )
local R, S, P, C, Ct = lpeg.R, lpeg.S, lpeg.P, lpeg.C, lpeg.Ct
local ows   = S" \t"^0
local token = (R("az", "AZ", "09") + S"!#$%&'*+-.^_`|~")^1
local quoted = P'"' * C((1 - S'"\\')^0) * P'"'
local param = C(token) / string.lower * P"=" * (quoted + C(token))
local media_type = C(token * P"/" * token) / string.lower * Ct((ows * P";" * ows * Ct(param)^-1)^0) * ows * -1

-- Letters, digits and "_" are themselves in these, and stand for nothing else.
local function plain_charset(name)
  return name == "utf-8" or name == "utf8" or name == "us-ascii" or name == "ascii" or name == "latin1"
    or name:find("^iso%-8859%-%d+$") ~= nil or name:find("^windows%-125%d$") ~= nil
end

-- The values of a field that servers also read with "_" for "-".
local function all(headers, wanted)
  local out, seen = {}, {}
  for _, name in ipairs(headers:names()) do
    if name:gsub("_", "-") == wanted then
      seen[name] = (seen[name] or 0) + 1
      out[#out + 1] = headers:get(name, seen[name])
    end
  end
  return out
end

local kinds = {
  ["application/x-www-form-urlencoded"] = "form", ["application/json"] = "json", ["text/json"] = "json",
  ["application/x-json"] = "json", ["text/x-json"] = "json",     -- Symfony, Rails
}

local function kind_of(media)
  return kinds[media] or media:find("%+json$") and "json" or media:find("^multipart/") and "multipart" or nil
end

-- Is there one boundary to all? PHP takes what follows the first such word, whatever it belongs to.
local function one_boundary(text, boundary)
  local at = text:find("boundary", 1, true)
  return boundary and at and text:sub(1, at - 1):find(";[ \t]*$") and text:find("^=", at + 8)
end

--- The same of one Content-Type; nil: there is none.
function M.of_type(text)
  local out = {}
  -- A body without a type is a form to Rack; so is one with an empty one.
  local lower = (text or ""):lower()
  if lower:find("^[%s;,]*$") then
    out.form, out.bare = true, true
    return out
  end
  -- Wherever it stands: some look for "/json" in the whole of it (Laravel), some at the end of a list.
  out.form = lower:find("urlencoded", 1, true) ~= nil
  out.json = lower:find("[/+]json") ~= nil or lower:find("/x%-json") ~= nil
  out.multipart = lower:find("multipart", 1, true) ~= nil
  local media, params = media_type:match(text)
  out.media = media
  if not media then
    out.why = "the Content-Type is malformed"
    return out
  end
  for _, p in ipairs(params) do
    if p[1] == "charset" and not plain_charset(p[2]:lower()) then out.why = out.why or "the body is not UTF-8" end
    if p[1] == "boundary" then out.boundary = out.boundary == nil and p[2] or false end
  end
  if out.multipart and not one_boundary(text, out.boundary) then out.why = out.why or "the Content-Type is malformed" end
  local kind, count = kind_of(media), (out.form and 1 or 0) + (out.json and 1 or 0) + (out.multipart and 1 or 0)
  if count > 1 then out.why = out.why or "the Content-Type says two things" end
  if count == 1 and kind and out[kind] then out.kind = kind end
  return out
end

local known, known_n = {}, 0        -- of_type's, of a Content-Type alone: nearly all requests bear one of a few
local KNOWN_MAX, KNOWN_BYTES = 100, 200

local function known_type(text)
  local out = known[text or ""]
  if out then return out end
  out = M.of_type(text)
  if #(text or "") <= KNOWN_BYTES then
    if known_n >= KNOWN_MAX then known, known_n = {}, 0 end
    known[text or ""], known_n = out, known_n + 1
  end
  return out
end

--- Nobody changes what it answers: others get the same table.
function M.of(headers)
  local one = not headers:get("content-encoding") and not headers:get("content_encoding") and not headers:get("content_type")
  if one and not headers:get("content-type", 2) then return known_type(headers:get("content-type")) end
  local types, coding = all(headers, "content-type"), table.concat(all(headers, "content-encoding"), ", ")
  local out = M.of_type(types[1])
  for i = 2, #types do
    local more = M.of_type(types[i])
    for _, is in ipairs { "form", "json", "multipart", "bare" } do out[is] = out[is] or more[is] end
    out.kind, out.why = nil, "there is more than one Content-Type"
  end
  if coding ~= "" and coding:lower() ~= "identity" then
    out.encoded, out.why = true, "the body has a Content-Encoding: send it plain"
  end
  return out
end

--- Why the rule on methods cannot look into it; nil: it can, or need not. A form's own parameters are cut out in any
-- charset, and where it has another type beside.
function M.unreadable(of)
  return (of.encoded or of.json or of.multipart) and of.why or nil
end

-- Does a piece of the text fit? The pieces overlap.
local function sliced(text, pause, fits)
  for at = 1, #text, SLICE do
    if at > 1 and pause then pause() end
    if fits(text:sub(at, at + SLICE + 255)) then return true end
  end
  return false
end

local ENCODED = "content%-transfer%-encoding:[ \t]*"

--- May a server read other letters in the text than stand there?
function M.hidden(of, text, pause)
  return of.why ~= nil or of.multipart and sliced(text, pause, function(piece)
    piece = piece:lower()
    return piece:find("content-transfer-encoding:", 1, true)
      and (piece:find(ENCODED .. "[^78 \t]") or piece:find(ENCODED .. "$"))     -- what comes is in the next one
  end)
end

-- ---- multipart (RFC 2046 5.1, RFC 7578) ----------------------------------------------------------

-- Everything that some reader does otherwise is unreadable: two kinds of line ends, folded lines, quotes of the other kind
-- (PHP's), continued parameters (RFC 2231), encoded words, what stands twice; backslashes, unless no name can be meant.
local part_param = Ct(C(token) / string.lower * P"=" * (quoted + C(token) * lpeg.Cc(true)))
local disposition = token * Ct((ows * P";" * ows * part_param^-1)^0) * ows * -1

-- Has it the letters of one of the names, however they are quoted, or escapes that may stand for them?
local function disposition_spells(text, names)
  if #text > 1024 then return true end
  local letters = text:lower():gsub("[^%w]", "")
  for _, name in ipairs(names) do
    if letters:find(name:lower():gsub("[^%w]", ""), 1, true) then return true end
  end
  return text:find("[%%*]") ~= nil or text:find("=?", 1, true) ~= nil
end

-- An encoded word (RFC 2047) may be a file's name (.NET, Spring) where the part has a name beside it; Commons FileUpload
-- decodes both.
local function disposition_names(out, text, names)
  local seen, encoded, params = {}, false, disposition:match(text)
  if not params then return not disposition_spells(text, names) end     -- curl: filename="a\"b.txt"
  for _, p in ipairs(params) do
    local name, value, bare = p[1], p[2], p[3]
    local word = value:find("=?", 1, true)
    if seen[name] or word and name ~= "filename" then return nil end
    seen[name], encoded = true, encoded or word
    if name:find("*", 1, true) then                                                -- RFC 8187
      value = name:find("^%l+%*$") and value:match("^[%w-]*'[%w-]*'([^']*)$")
      if not value then return nil end
    elseif bare and value:find("'", 1, true) then
      return nil
    end
    if name:find("name", 1, true) then out[#out + 1] = value end
  end
  return not encoded or seen.name
end

-- The names that a part may have to anybody: of its disposition, and what Rack takes where there is none. nil: unreadable
local function part_names(out, head, newline, names)
  local seen = {}
  if head:gsub(newline, ""):find("[\0-\8\10-\31\127]") then return nil end
  for line in head:gmatch("(.-)" .. newline) do
    local name, value = line:match("^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
    if not name then return nil end
    name = name:lower():gsub("_", "-")
    if seen[name] then return nil end
    seen[name] = true
    if name == "content-disposition" and not disposition_names(out, value, names) then return nil end
    if name == "content-id" then out[#out + 1] = value:gsub("[<>]", "") end
  end
  return true
end
M.part_names = part_names

-- Every "--boundary" is a delimiter to somebody, so each has to be one to all, and all lines end as the first one does
-- (LF alone: Python's email, and with it Google's client): { name, … } | nil: unreadable
local function multipart_names(text, boundary, names, pause)
  local out, at, heads, delimiter, newline = {}, 1, 0, "--" .. boundary, nil
  if not boundary:find("^[%w'()+_,./:=?-]+$") or #boundary > 70 then return nil end     -- RFC 2046 5.1.1
  for i = 1, PARTS_MAX do
    if pause and i % PARTS_TURN == 0 then pause() end
    local from, to = text:find(delimiter, at, true)
    if not from then return nil end
    newline = newline or text:sub(to + 1, to + 2):match("^\r?\n") or "\r\n"
    local before = from ~= 1 and text:sub(math.max(from - 2, 1), from - 1) or newline
    if before:match("\r?\n$") ~= newline then return nil end
    if text:sub(to + 1, to + 2) == "--" then
      local rest = text:sub(to + 3, to + 3 + BEGIN)
      return #rest <= BEGIN and not text:find(delimiter, to + 1, true) and not rest:find("%S") and out or nil
    end
    to = to + #newline
    local stop, last = text:find(newline .. newline, to - #newline + 1, true)
    if text:sub(to - #newline + 1, to) ~= newline or not stop or stop - to > HEAD_MAX then return nil end
    local head = text:sub(to + 1, stop + #newline - 1)
    heads = heads + #head
    if heads > HEADS_MAX or head:find(delimiter, 1, true) or not part_names(out, head, newline, names) then return nil end
    at = last + 1
  end
  return nil
end

-- ---- batches of requests ---------------------------------------------------------------------------

-- Parts of type application/http (Google, Azure; OData nests them); requests in JSON (OData JSON 4.01 section 19, Microsoft
-- Graph). The first asks for no path: a body of that type is sent to nothing else.
function M.batch(of, text, path, allowed, pause)
  if of.multipart then
    -- the plain search first: a pattern takes a hundred times as long
    if not sliced(text, pause, function(piece)
      piece = piece:lower()
      return piece:find("application/http", 1, true) and piece:find("content%-type:[ \t]*application/http")
    end) then return false end
    if #text > BATCH_MAX then return true end
    for method in text:gmatch("[\r\n]([%w!#$%%&'*+.^_`|~-]+)[ \t][^\r\n]-[Hh][Tt][Tt][Pp]/") do
      if not allowed[method:upper()] then return true end
    end
  elseif of.json and path:lower():find("[$4]batch") then     -- "%24batch", too
    if #text > BATCH_MAX then return true end
    local ok, doc = pcall(require("json").decode, text)
    if not ok or type(doc) ~= "table" then return true end
    for name, list in pairs(doc) do
      for _, one in ipairs(tostring(name):lower() == "requests" and type(list) == "table" and list or {}) do
        for member, method in pairs(type(one) == "table" and one or {}) do
          if tostring(member):lower() == "method" and not allowed[tostring(method):upper()] then return true end
        end
      end
    end
  end
  return false
end

local function percent(text)
  return (text:gsub("[^%w_.$%[%]-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- ---- looking for names -----------------------------------------------------------------------------

-- Could a lax reader find one of the names in JSON that is malformed to us? Not without their letters, or an escape
-- that stands for one. What is left has no such name: deep nesting, half a surrogate pair, NaN, a BOM before it.
local function json_spells(text, names, pause)
  return sliced(text, pause, function(piece)
    if piece:find("[\0-\8\11\12\14-\31]") or piece:find("\\u00", 1, true) or piece:find('\\[^"\\/bfnrtu]') then return true end
    local lower = piece:lower()
    for _, name in ipairs(names) do
      if lower:find(name:lower():match("%w*$"), 1, true) then return true end
    end
  end) or not utf8.len(text)
end

-- Is "{" the first that is no space? More spaces than anybody sends count as some before it.
local function begins_object(text)
  local at = text:sub(1, BEGIN):match("^[\xef\xbb\xbf%s]*()")
  return at > BEGIN or text:byte(at) == 123
end

local function json_has(text, names, pause)
  for _, name in ipairs(names) do
    local has = request.json_has(text, name)
    if has then return true end
    if has == nil then return json_spells(text, names, pause) and nil end
  end
  return false
end

local function multipart_has(text, boundary, names, pause)
  local found = multipart_names(text, boundary, names, pause)
  if not found then return nil end
  for _, name in ipairs(found) do
    -- as it is and decoded once more, for some clients escape what stands between quotes (WHATWG HTML 4.10.21.8)
    if request.form_names(percent(name), names) or request.form_names(name, names) then return true end
  end
  return false
end

--- `text`: the body. A form without a type may be JSON that nobody says is. pause(): others have a turn.
function M.carries(of, text, names, pause)
  if text == "" then return false end
  if of.why then return nil, of.why end
  if of.form and request.form_names(text, names) then return true end
  local has
  if of.json or of.bare and begins_object(text) then
    has = json_has(text, names, pause)
    if has == nil and (of.kind or of.bare) then return nil, "the body is not valid JSON" end
  elseif of.multipart then
    has = multipart_has(text, of.boundary, names, pause)
    if has == nil then return nil, "the parts of the body can be read in more than one way" end
  end
  return has == true
end

return M
