--- What a request's body is to servers that take parameters from it. Everything here that asks so asks this module: the
-- rule on methods (`_method`), body_parameter, mint, stand-ins.
--
-- body.of(headers), body.of_type(Content-Type | nil) -> { form, json, multipart = bool: some server would take it for one, kind = "form" | "json" |
--   "multipart" | nil: what it says it is, and nothing else, bare: it says nothing, why = nil | a reason: it cannot be looked into, media, boundary }
-- body.carries(of, text, names [, form_has]) -> true: a server may find a parameter of one of these names in it | false | nil, why
local request = require "request"
local lpeg = require "lpeg"
local M = {}

M.MAX = 16 << 20        -- bytes of a body that is read to be looked into (DESIGN, "Limits")
local HEAD_MAX = 8192   -- bytes before one part's content
local PARTS_MAX = 1000  -- of a multipart body: PHP's max_input_vars

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

local kinds = { ["application/x-www-form-urlencoded"] = "form", ["application/json"] = "json", ["text/json"] = "json" }

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
  out.json = lower:find("[/+]json") ~= nil
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

function M.of(headers)
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

--- May a server read other letters in the text than stand there?
function M.hidden(of, text)
  return of.why ~= nil or of.multipart and text:lower():find("content%-transfer%-encoding:[ \t]*[^78 \t]") ~= nil
end

-- ---- multipart (RFC 2046 5.1, RFC 7578) ----------------------------------------------------------

-- Everything that some reader does otherwise is unreadable: line ends without CR, folded lines, backslashes, quotes
-- of the other kind (PHP's), continued parameters (RFC 2231), encoded words, what stands twice.
local part_param = Ct(C(token) / string.lower * P"=" * (quoted + C(token) * lpeg.Cc(true)))
local disposition = token * Ct((ows * P";" * ows * part_param^-1)^0) * ows * -1

local function disposition_names(out, text)
  local seen = {}
  for _, p in ipairs(disposition:match(text) or { {} }) do
    local name, value, bare = p[1], p[2], p[3]
    if not name or seen[name] or value:find("=?", 1, true) then return nil end     -- RFC 2047: Commons FileUpload decodes it
    seen[name] = true
    if name:find("*", 1, true) then                                                -- RFC 8187
      value = name:find("^%l+%*$") and value:match("^[%w-]*'[%w-]*'([^']*)$")
      if not value then return nil end
    elseif bare and value:find("'", 1, true) then
      return nil
    end
    if name:find("name", 1, true) then out[#out + 1] = value end
  end
  return true
end

-- The names that a part may have to anybody: of its disposition, and what Rack takes where there is none. nil: unreadable
local function part_names(out, head)
  local seen = {}
  if head:gsub("\r\n", ""):find("[\0-\8\10-\31\127]") then return nil end
  for line in head:gmatch("(.-)\r\n") do
    local name, value = line:match("^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
    if not name then return nil end
    name = name:lower():gsub("_", "-")
    if seen[name] then return nil end
    seen[name] = true
    if name == "content-disposition" and not disposition_names(out, value) then return nil end
    if name == "content-id" then out[#out + 1] = value:gsub("[<>]", "") end
  end
  return true
end

-- Every "--boundary" is a delimiter to somebody, so each has to be one to all: { name, … } | nil: unreadable
local function multipart_names(text, boundary)
  local out, at, delimiter = {}, 1, "--" .. boundary
  if not boundary:find("^[%w'()+_,./:=?-]+$") or #boundary > 70 then return nil end     -- RFC 2046 5.1.1
  for _ = 1, PARTS_MAX do
    local from, to = text:find(delimiter, at, true)
    if not from or from ~= 1 and text:sub(from - 2, from - 1) ~= "\r\n" then return nil end
    local after = text:sub(to + 1, to + 2)
    if after == "--" then
      return not text:find(delimiter, to + 1, true) and not text:find("%S", to + 3) and out or nil
    end
    local stop = after == "\r\n" and text:find("\r\n\r\n", to + 1, true)
    if not stop or stop - to > HEAD_MAX then return nil end
    local head = text:sub(to + 3, stop + 1)
    if head:find(delimiter, 1, true) or not part_names(out, head) then return nil end
    at = stop + 2
  end
  return nil
end

local function percent(text)
  return (text:gsub("[^%w_.$%[%]-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- ---- looking for names -----------------------------------------------------------------------------

local function json_has(text, names)
  for _, name in ipairs(names) do
    local has, why = request.json_has(text, name)
    if has ~= false then return has, why end
  end
  return false
end

local function multipart_has(text, boundary, names)
  local found = multipart_names(text, boundary)
  if not found then return nil end
  for _, name in ipairs(found) do
    -- as it is and decoded once more, for some clients escape what stands between quotes (WHATWG HTML 4.10.21.8)
    if request.form_names(percent(name), names) or request.form_names(name, names) then return true end
  end
  return false
end

--- `text`: the body. A form without a type may be JSON that nobody says is. `form_has`: in the place of request.form_names,
-- for long forms.
function M.carries(of, text, names, form_has)
  if text == "" then return false end
  if of.why then return nil, of.why end
  if of.form and (form_has or request.form_names)(text, names) then return true end
  local has
  if of.json then
    has = json_has(text, names)
    if has == nil and of.kind then return nil, "the body is not valid JSON" end
  elseif of.multipart then
    has = multipart_has(text, of.boundary, names)
    if has == nil then return nil, "the parts of the body can be read in more than one way" end
  elseif of.bare and text:find("^%s*{") then
    has = json_has(text, names)
  end
  return has == true
end

return M
