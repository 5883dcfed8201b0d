--- Rows: the sandbox writes a placeholder at a named place of a request, and the secret goes out there.
-- A credential of any type may have some. In its record: rows = { { field = "value" | "values.KEY" | "access_token",
-- place = { "header=X-Api-Key", … }, placeholder = literal or nil: what the agent holds for that field }… }.
-- A place has a name, for an agent that chose it would choose one that comes back: a field that the server repeats
-- (Origin, X-Request-Id), a note that is read again. Records of before may have a bare word as place: `legacy`.
local M = {}

local ROWS_MAX = 16          -- of a credential
M.PLACES_MAX = 32            -- of all of them together: a request takes 64 of proxy.c's rows, and a field may have two texts
local LITERAL_MIN = 8        -- a shorter word turns up where nobody meant it
local LITERAL_MAX = 256
local NAME_MAX = 128         -- bytes of a name, in proxy.c 256
local STEPS_MAX = 32
local PARTS_TURN = 500       -- parts of a form that are read in one turn: some milliseconds
local HEAD_MAX = 8192        -- bytes of a part's head in which a name is looked for

-- Why a field is no place, by its name; "x-*" stands for all that begin so. Those that the proxy writes itself
-- (Host, Connection, Proxy-*, …) are refused by records.header_name before.
local CORS = "servers repeat it to every origin (CORS)"
local CACHE = "servers answer with it (Content-Range, ETag, 304)"
local TRACE = "servers repeat it in their answers and write it into their logs"
local ROUTE = "servers and proxies build addresses and log lines from it"
local ABOUT = "it says how to read the request or the answer, and servers repeat it"
local no_place = {
  ["origin"] = CORS, ["access-control-*"] = CORS,                     -- Fetch 3.2: Access-Control-Allow-Origin, -Headers
  ["referer"] = "pages and logs show it",                             -- RFC 9110 10.1.3
  ["cookie"] = "the agent would choose the cookie; attach it whole: --type api_key header=cookie prefix=NAME=",
  ["range"] = CACHE, ["if-*"] = CACHE, ["cache-control"] = CACHE, ["pragma"] = CACHE, -- RFC 9110 13, 14
  ["user-agent"] = TRACE, ["from"] = TRACE, ["date"] = TRACE, ["idempotency-key"] = TRACE, ["x-idempotency-key"] = TRACE,
  ["x-cloud-trace-context"] = TRACE, ["x-trace-*"] = TRACE, ["x-transaction-id"] = TRACE, ["sentry-trace"] = TRACE,
  ["x-datadog-*"] = TRACE, ["last-event-id"] = TRACE, ["set-cookie"] = ABOUT, ["location"] = ABOUT,
  ["traceparent"] = TRACE, ["tracestate"] = TRACE, ["baggage"] = TRACE, ["b3"] = TRACE, ["x-b3-*"] = TRACE,
  ["via"] = ROUTE, ["forwarded"] = ROUTE, ["x-forwarded-*"] = ROUTE, ["x-original-*"] = ROUTE, ["x-rewrite-*"] = ROUTE,
  ["x-real-ip"] = ROUTE, ["x-host"] = ROUTE, ["destination"] = ROUTE, ["x-http-method*"] = ROUTE, ["x-method-override"] = ROUTE,
  ["accept*"] = ABOUT, ["content-*"] = ABOUT, ["prefer"] = ABOUT, ["vary"] = ABOUT, ["max-forwards"] = ABOUT, ["dnt"] = ABOUT,
  ["sec-websocket-accept"] = ABOUT, ["sec-websocket-key"] = ABOUT, ["sec-websocket-version"] = ABOUT,
  ["sec-websocket-extensions"] = ABOUT, ["sec-fetch-*"] = ABOUT, ["sec-ch-*"] = ABOUT, ["upgrade-*"] = ABOUT,
}

-- A name as it is written in a row: "," parts places and ":" ends them, so they are "%2C" and "%3A" within one.
local function unescape(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function header(text)
  local name, why = require("records").header_name(text)
  if not name then return nil, why end
  local folded = name:gsub("_", "-"):lower()    -- as CGI, WSGI and their kin read it
  why = no_place[folded] or (folded:find("request%-?id$") or folded:find("correlation%-?id$") or folded:find("trace%-?id$")) and TRACE
  for pattern, reason in pairs(no_place) do
    local lead = pattern:match("^(.*)%*$")
    if lead and folded:sub(1, #lead) == lead then why = reason end
  end
  if why then return nil, ("%s is no place for a secret: %s"):format(text, why) end
  return name
end

local function parameter(text)
  local name = unescape(text)
  if name == "" or #name > NAME_MAX or name:find("%c") then return nil, ("a name has from 1 to %d characters"):format(NAME_MAX) end
  return name
end

-- A JSON pointer (RFC 6901), as the steps that proxy.c takes: a NUL behind each.
local function pointer(text)
  local path, steps = unescape(text), {}
  if path:sub(1, 1) ~= "/" then return nil, "a JSON pointer (RFC 6901) begins with '/': /auth/key" end
  if path:find("~[^01]") or path:find("~$") or path:find("%c") or #path > 2 * NAME_MAX then
    return nil, "that is no JSON pointer (RFC 6901): '~' is ~0 in it, and '/' within a name ~1"
  end
  for step in path:gmatch("/([^/]*)") do steps[#steps + 1] = step:gsub("~1", "/"):gsub("~0", "~") .. "\0" end
  if #steps > STEPS_MAX then return nil, ("a JSON pointer of more than %d steps"):format(STEPS_MAX) end
  return table.concat(steps)
end

local function literal(text) return (text:gsub("[^%w]", "%%%0")) end

-- Letters and signs that no server takes for the end of a segment, and none that is made of dots.
local SEGMENT = "[%w_~:@!$&'()*+,=-][%w_.~:@!$&'()*+,=-]*"

-- A template as patterns whose captures are where the placeholder begins and ends. "*" is any segment; "/**" at the end
-- any rest, or none.
local function template(text)
  local path, rest = text:gsub("%%3[Aa]", ":"):gsub("%%2[Cc]", ","):gsub("/%*%*$", "")
  local out, places = {}, 0
  if path:sub(1, 1) ~= "/" or path:find("[?#%s%c]") or #path > 2 * NAME_MAX then
    return nil, "a path's template is like /bot{}/**: {} is the placeholder, * any segment, /** any rest"
  end
  for segment in path:gmatch("/([^/]*)") do
    local before, behind = segment:match("^(.-){}(.*)$")
    if before then
      places = places + 1
      out[#out + 1] = literal(before) .. "()[^/]+()" .. literal(behind)
    elseif segment == "*" then out[#out + 1] = SEGMENT
    else out[#out + 1] = literal(segment)
    end
    if segment ~= "*" and ((before or segment) .. (behind or "")):find("[*{}]") or segment == "." or segment == ".." then
      return nil, ("'%s' cannot be a part of a path's template"):format(segment)
    end
  end
  if places ~= 1 then return nil, "a path's template has {} once, where the placeholder stands: /bot{}/**" end
  local pattern = "^/" .. table.concat(out, "/")
  return rest > 0 and { pattern .. "$", pattern .. "/" } or { pattern .. "$" }
end

-- What a place may be: how its name is read, an example, and why it needs one.
local CHOOSES = "so the agent would choose one that comes back to it"
local kinds = {
  header = { read = header, example = "header=X-Api-Key", why = "it names no header, " .. CHOOSES },
  query  = { read = parameter, example = "query=key", why = "it names no parameter, " .. CHOOSES },
  form   = { read = parameter, example = "form=token", why = "it names no parameter, " .. CHOOSES },
  json   = { read = pointer, example = "json=/auth/key", why = "it names no member, " .. CHOOSES },
  ws     = { read = pointer, example = "ws=/d/token", why = "it names no member, " .. CHOOSES },
  path   = { read = template, example = "path=/bot{}/**", why = "it does not say where in the path, " .. CHOOSES },
  basic  = { example = "basic" },
  body      = { example = "json=/auth/key or form=token", why = "it names no member of a body, " .. CHOOSES },
  websocket = { example = "ws=/d/token", why = "it names no member of a message, " .. CHOOSES },
}
local SPELLED = "header=NAME, query=NAME, form=NAME, json=/POINTER, ws=/POINTER, path=/TEMPLATE{}, basic"

-- One place: its kind and its name as the request's part is compared with it | nil, why
local function read_place(text)
  local kind, name = text:match("^(%l+)=(.*)$")
  kind = kind or text
  local known = kinds[kind]
  if not known then
    local near = require("records").nearest(kind, { "header", "query", "form", "json", "ws", "path", "basic" })
    return nil, ("a placeholder stands in %s%s"):format(SPELLED,
      near and ("; did you mean %s?"):format(kinds[near].example) or "; a ',' or ':' within a name is %2C or %3A")
  end
  if kind == "basic" and not name then return kind end
  if not known.read then
    return nil, name and kind == "basic" and "basic takes no name: it is either half of Authorization: Basic"
      or ("'%s' is no place: %s. Write %s"):format(kind, known.why, known.example)
  end
  if not name then return nil, ("'%s' is no place: %s. Write %s"):format(kind, known.why, known.example) end
  local value, why = known.read(name)
  if not value then return nil, ("%s: %s"):format(text, why) end
  return kind, value
end

local function read_places(text)
  local list, seen = {}, {}
  for word in text:gmatch("[^,]+") do
    local kind, why = read_place(word)
    if not kind then return nil, why end
    if not seen[word] then
      seen[word] = true
      list[#list + 1] = word
    end
  end
  if #list == 0 then return nil, "it names no place: " .. SPELLED end
  return list
end

--- A row as it is typed: what M.parse takes.
function M.text(row) return ("%s:%s%s"):format(row.field, table.concat(row.place, ","), row.placeholder and ":" .. row.placeholder or "") end

--- "FIELD:PLACE[,PLACE…][:PLACEHOLDER]" -> row | nil, why
function M.parse(text)
  local field, places, literal = text:match("^([%a_][%w_]*):([^:]*):?(.*)$")
  if not field then field, places, literal = text:match("^([%a_][%w_]*%.[^:]+):([^:]*):?(.*)$") end
  if not field then
    return nil, "it is FIELD:PLACE[,PLACE…][:PLACEHOLDER]: token:path=/bot{}/**, password:json=/auth/password:__PASSWORD__"
  end
  local list, why = read_places(places)
  if not list then return nil, why end
  if literal == "" then return { field = field, place = list } end
  if #literal < LITERAL_MIN and not literal:find("^__.+__$") or #literal > LITERAL_MAX then
    return nil, ("a placeholder has from %d to %d characters, or is __NAME__ (a ':' within a place is %%3A)"):format(LITERAL_MIN, LITERAL_MAX)
  end
  if literal:find("[^%w._:/+=@~{}$<>-]") then
    return nil, "a placeholder is letters, digits and . _ : / + = @ ~ { } $ < > -"
  end
  return { field = field, place = list, placeholder = literal }
end

--- What a row of before becomes: a bare `header` is Authorization, both ways of writing it, and the type's own field.
local function places_of(row, pol, rec)
  local out = {}
  for _, place in ipairs(row.place) do
    if place == "header" then
      out[#out + 1], out[#out + 2] = "header=authorization", "basic"
      for _, f in ipairs(pol.fields or {}) do
        local name = f.header and f.type ~= "map" and (rec.fields and rec.fields[f.name] or f.default)
        if type(name) == "string" and name:lower() ~= "authorization" then out[#out + 1] = "header=" .. name end
      end
    else out[#out + 1] = place
    end
  end
  return out
end

--- Why a place of these rows has no name; nil: all have one.
function M.bare(list)
  for _, row in ipairs(list or {}) do
    for _, place in ipairs(row.place) do
      local kind, why = read_place(place)
      if not kind then return why end
    end
  end
end

--- The command that names the places of a credential's rows of before; nil: they have names. The gaps are in
-- capitals. `preset`: the one that the credential names, or nil.
function M.mend(rec, preset)
  local words, bare = {}, false
  local gaps = { header = "header=Authorization", query = "query=NAME", body = "json=/POINTER", websocket = "ws=/POINTER",
    path = "path=/TEMPLATE{}" }
  for _, row in ipairs(rec.rows or {}) do
    local places, mended = {}, false
    for i, place in ipairs(row.place) do
      mended = mended or gaps[place] ~= nil and place ~= "header"
      places[i] = gaps[place] or place
    end
    bare = bare or mended
    local list = { { place = places } }
    -- Presets that were edited before places had names may have what we mend here.
    if mended and preset and preset.rows and #rec.rows == 1 and not M.bare(preset.rows) then list = preset.rows end
    for _, named in ipairs(list) do
      words[#words + 1] = " --substitute " .. require("env").quote(M.text { field = row.field, place = named.place, placeholder = row.placeholder })
    end
  end
  return bare and ("sallyport credential set %s%s"):format(rec.name, table.concat(words)) or nil
end

-- Is this one of the type's secrets? Its sealed name, or false for the token that `refresh` brings; nil, why.
local function sealed_of(pol, field)
  if field == "access_token" and pol.refresh and not pol.by_name.access_token then return false end
  local name, member = field:match("^([^.]+)%.?(.*)$")
  local spec = pol.by_name[name]
  local names = {}
  for _, f in ipairs(pol.fields) do
    if f.secret then names[#names + 1] = f.type == "map" and f.name .. ".KEY" or f.name end
    for part, how in pairs(f.split or {}) do
      if how.secret then names[#names + 1] = f.name .. "." .. part end
    end
  end
  if pol.refresh then names[#names + 1] = "access_token" end
  table.sort(names)
  local inner = spec and (spec.secret and spec.type == "map" or spec.split and spec.split[member] and spec.split[member].secret)
  if not spec or not (inner or spec.secret and spec.type ~= "map") or (member ~= "") ~= (inner or false) then
    return nil, ("'%s' is no secret of %s: it has %s"):format(field, pol.name, table.concat(names, ", "))
  end
  return "f/" .. name .. (inner and "/" .. member or "")
end

--- Do these rows fit the credential? `has(sealed)` says whether a secret is set, `held` whether agents get a
-- placeholder of their own. true | nil, why
function M.check(rows, pol, has, held)
  if not rows or #rows == 0 then
    if pol.rows then return nil, ("%s is nothing without a row: --substitute FIELD:PLACE=NAME"):format(pol.name) end
    return true
  end
  local n = 0
  for _, row in ipairs(rows) do n = n + #row.place end
  if #rows > ROWS_MAX or n > M.PLACES_MAX then return nil, ("more than %d rows, or %d places"):format(ROWS_MAX, M.PLACES_MAX) end
  for _, row in ipairs(rows) do
    local sealed, why = sealed_of(pol, row.field)
    if sealed == nil then return nil, why end
    if sealed and not has(sealed) then return nil, ("the secret %s is not set"):format(row.field) end
    if not row.placeholder and not held then
      return nil, ("%s: name the variable that holds its placeholder (env=NAME), or write one: %s:%s:__%s__"):format(
        row.field, row.field, table.concat(row.place, ","), row.field:upper():gsub("[^%w]", "_"))
    end
  end
  return true
end

--- As the pipeline uses them: { { field, placeholder, secret | token, place, name | patterns }… }, one a place, and a bit
-- for each kind of place. nil: there are none; nil, nil, why: one has no name. `places`: C's words (request.places).
function M.compile(rec, pol, places, preset)
  if not rec.rows or #rec.rows == 0 then return nil end
  local command = M.mend(rec, preset)
  if command then return nil, nil, "a row of it names no place, so the agent could choose it; the operator mends it: " .. command end
  local out, all = {}, 0
  for _, row in ipairs(rec.rows) do
    local sealed = sealed_of(pol, row.field)
    for _, place in ipairs(sealed ~= nil and places_of(row, pol, rec) or {}) do
      local kind, name = read_place(place)
      if not kind then return nil, nil, name end
      all = all | 1 << places[kind]
      out[#out + 1] = {
        field = row.field, placeholder = row.placeholder, place = places[kind], name = kind ~= "path" and name or nil,
        part = kind == "form" and places.part or nil, patterns = kind == "path" and name or nil, token = sealed == false and row.field or nil,
        secret = sealed and rec.secrets and rec.secrets[sealed] or nil,
      }
    end
  end
  return out, all
end

--- The kind of the request's body, where rows look into it: "json", "form" or "part"; else nil.
function M.looks(opened, req, places)
  local kind = opened.rows and opened.places & (1 << places.json | 1 << places.form) ~= 0 and req:text_kind()
  return kind and opened.places & 1 << places[kind == "json" and kind or "form"] ~= 0 and kind or nil
end

--- What rows read of a body of this kind (M.looks), for a message: "its row puts value at json=/auth/key".
function M.looked(rec, kind)
  local out = {}
  for _, row in ipairs(rec.rows) do
    for _, place in ipairs(row.place) do
      if #out < 3 and place:find(kind == "json" and "^json" or "^form") then out[#out + 1] = row.field .. " at " .. place end
    end
  end
  return "its row puts " .. (#out > 0 and table.concat(out, ", ") or "a secret there")
end

-- The name of a part by the lines of its head; nil: none that all readers would take for the same, or a file.
local function part_name(head)
  local name, disposition
  if head:gsub("\r\n[^\r\n]+", "") ~= "" then return nil end
  for line in head:gmatch("[^\r\n]+") do
    local field, value = line:match("^([%w-]+):[ \t]*(.-)[ \t]*$")
    field = field and field:lower()
    if field == "content-disposition" and not disposition then
      disposition, name = true, value:match('^form%-data; name="([^"\\%%;]+)"$')
    elseif field ~= "content-type" then return nil
    end
  end
  return name
end

--- Where the values of the parts of multipart/form-data (RFC 7578) stand: { [name] = { from, to } }, or nil: it is not
-- made as strictly as two readers need who are to agree on it. A value of several lines is left out: one of them could
-- begin another part for who reads line ends more loosely; so is one whose name is there twice. pause(): others have a
-- turn. Nothing but plain searches reads all of a text that may have as much as body-max says.
function M.parts(kind, text, pause)
  local _, boundaries = kind:lower():gsub("boundary", "")
  local quote, boundary = kind:match("^[%w/-]+;.-[bB][oO][uU][nN][dD][aA][rR][yY]=(\"?)([%w'()+_,./:=?-]+)\"?$")
  if not boundary or boundaries ~= 1 or #boundary > 70 or (quote ~= "") ~= (kind:sub(-1) == '"') then return nil end
  local delimiter, out, at, count = "--" .. boundary, {}, #boundary + 3, 0
  if text:sub(1, at - 1) ~= delimiter then return nil end
  while text:sub(at, at + 1) == "\r\n" do
    local stop = text:find("\r\n\r\n", at, true)
    local to = stop and text:find("\r\n" .. delimiter, stop + 4, true)
    if not to then return nil end
    count = count + 1
    if pause and count % PARTS_TURN == 0 then pause() end
    local name = stop - at <= HEAD_MAX and part_name(text:sub(at, stop - 1)) or nil
    if name then
      local feed = text:find("\n", stop + 4, true)        -- behind the "\r" at `to`, if nothing is broken
      local broken = out[name] or text:find("\r", stop + 4, true) < to or feed and feed < to
      out[name] = not broken and { stop + 4, to } or {}
    end
    at = to + 2 + #delimiter
  end
  local rest = text:sub(at)
  return (rest == "--" or rest == "--\r\n") and out or nil
end

--- Adds what stands for the row in this request to `list`, as req:substitute takes it. `parts`: M.parts of its body.
function M.apply(row, text, value, path, parts, list)
  local function span(kind, from, to)         -- in the order of the text
    local at = #list + 1
    while at > 1 and (list[at - 1][5] or 0) >= from do at = at - 1 end
    table.insert(list, at, { text, value, kind, nil, from - 1, to - 1 })
  end
  local part = parts and parts[row.part and row.name]
  if part and part[1] then span(row.part, part[1], part[2]) end
  if not row.patterns then
    list[#list + 1] = { text, value, row.place, row.name }
    return
  end
  for _, pattern in ipairs(row.patterns) do
    local from, to = path:match(pattern)
    if from then return span(row.place, from, to) end
  end
end

--- The texts that stand for a field: the row's own, else what the agent holds for the field, else for the credential;
-- beside them what an SDK was given for a token (`also`).
-- held = { { text, field, also }… }
function M.texts(row, held)
  local own, any, also = {}, {}, {}
  for _, h in ipairs(held) do
    if h.also then
      if h.field == row.field then also[#also + 1] = h.text end
    elseif h.field == row.field then own[#own + 1] = h.text
    elseif not h.field and #any == 0 then any[1] = h.text   -- the first: further ones stand for other fields
    end
  end
  local out = row.placeholder and { row.placeholder } or #own > 0 and own or any
  return table.move(also, 1, #also, #out + 1, out)
end

--- For a listing: "value in path as __TOKEN__".
function M.spoken(row)
  return ("%s in %s%s"):format(row.field, table.concat(row.place, ", "), row.placeholder and " as " .. row.placeholder or "")
end

return M
