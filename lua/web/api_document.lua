--- The API's OpenAPI 3.1 document: made from web.api_table, and for answers from `sallyport help json`.
local json = require "json"
local rows = require "web.api_table"
local M = {}

local array = json.array

-- ---- what commands answer --------------------------------------------------------------------------

local member_schema

-- "a, b[]?, c(d, e)" at `at`, up to a closing bracket -> schema of the object, where it ended
local function members(text, at)
  local out, required = {}, array {}
  while at <= #text do
    local name, to = text:match("^([%w_-]+)()", at)
    if not name then break end
    local schema
    schema, at = member_schema(text, to)
    if text:sub(at, at) == "?" then at = at + 1 else required[#required + 1] = name end
    out[name] = schema
    if text:sub(at, at) == ")" then return { type = "object", properties = out, required = required }, at + 1 end
    at = text:match("^,%s*()", at) or #text + 1
  end
  return { type = "object", properties = out, required = required }, at
end

-- What stands behind a member's name: "[]", "{}", "(…)", or nothing.
function member_schema(text, at)
  local mark = text:match("^%[%]", at) or text:match("^{}", at) or ""
  at = at + #mark
  local inner
  if text:sub(at, at) == "(" then inner, at = members(text, at + 1) end
  if mark == "[]" then return { type = "array", items = inner or {} }, at end
  if mark == "{}" then return { type = "object" }, at end
  return inner or { type = array { "string", "number", "boolean", "array" } }, at
end

-- Cells of the two tables of help json: things -> schema, commands -> cell
local function documented()
  local things, cells, table_ = {}, {}, 0
  for line in require("help.json"):gmatch("[^\n]+") do
    local a, b = line:match("^| ([^|]+) | (.+) |$")
    if a == "thing" or a == "command" then
      table_ = table_ + 1
    elseif a and table_ == 1 then
      things[a] = members(b:match("^`(.*)`$"), 1)
    elseif a and table_ == 2 then
      cells[a] = b
    end
  end
  return things, cells
end

local function ref(name) return { ["$ref"] = "#/components/schemas/" .. name } end

local function answer_of(row, things, cells)
  local words = row.words or row.pick
  if row.lines then return { type = "array", items = ref "record" } end
  if words == "log" then return ref "summary" end
  local either = words == "credential presets" and row.id == nil and "preset" or words == "rule counters" and "counted"       -- one with a name, else all
  if either then return row.parts[1] and ref(either) or { type = "array", items = ref(either) } end
  if words == "set" then return { type = "object" } end
  if row.answers then return (members(row.answers, 1)) end
  if row.member then
    local list = things.bundle.properties[row.member]
    return row.pick and list.items or list
  end
  local cell = cells[words] or ""
  local thing, several = cell:match("^(%l+)(%[?%]?)")
  if thing and things[thing] then
    return several ~= "" and not row.pick and { type = "array", items = ref(thing) } or ref(thing)
  end
  local text = cell:match("^`([^`]*)`")
  if text and text ~= "{}" then
    local schema = members(text, 1)
    return cell:find("an array$") and { type = "array", items = schema } or schema
  end
  return { type = "object" }
end

-- ---- what is sent ----------------------------------------------------------------------------------

local TEXTS = { type = "array", items = { type = "string" } }
local VALUE = { type = array { "string", "number", "boolean", "array", "object" } }

local function schema_of(m)
  local out
  if m.kind == "switch" and m.word then out = { oneOf = array { { type = "boolean" }, { const = m.word } } }
  elseif m.kind == "switch" then out = { type = "boolean" }
  elseif m.kind == "list" then
    out = { type = "array", items = m.of and { type = "string", enum = array(table.move(m.of, 1, #m.of, 1, {})) } or TEXTS.items,
      minItems = (m.place or m.option and not m.clears) and 1 or nil }
  elseif m.kind == "map" then out = { type = "object", additionalProperties = { type = "string" } }
  elseif m.kind == "secrets" then out = { type = "object", additionalProperties = { type = "string", writeOnly = true }, writeOnly = true }
  elseif m.kind == "fields" then out = { type = "object", additionalProperties = VALUE }
  elseif m.kind == "value" then out = { oneOf = array { { type = "string" }, { type = "integer" }, { type = "boolean" },
    { type = "array", items = TEXTS.items, minItems = 1 } } }
  else out = { type = "string" } end
  if m.of and m.kind ~= "list" then out.enum = array(table.move(m.of, 1, #m.of, 1, {})) end
  out.description = m.about
  return out
end

local function body_of(row)
  local properties, required, must = {}, array {}, false
  for _, m in ipairs(row.body) do
    properties[m.name] = schema_of(m)
    if m.required then required[#required + 1], must = m.name, true end
  end
  return { required = must, content = { ["application/json"] = { schema = { type = "object", properties = properties,
    required = must and required or nil, additionalProperties = false } } } }
end

local function parameters_of(row)
  local out = array {}
  for _, name in ipairs(row.parts) do
    out[#out + 1] = { name = name, ["in"] = "path", required = true, schema = { type = "string", minLength = 1, maxLength = 256 } }
  end
  for _, m in ipairs(row.query or {}) do
    out[#out + 1] = { name = m.name, ["in"] = "query", required = m.required or false, schema = schema_of(m), description = m.about }
  end
  if row.method ~= "GET" then
    out[#out + 1] = { name = "If-Match", ["in"] = "header", schema = { type = "string" },
      description = "the ETag of what the change was made of: 412 where it is another" }
  end
  return out
end

local faults = { ["400"] = "what was sent is wrong", ["401"] = "no token, or one that does not count", ["403"] = "the token's scopes do not allow it, a secret is to come along, or it is the command line's",
  ["404"] = "there is no such thing", ["409"] = "there is one of this name", ["412"] = "it was changed meanwhile", ["413"] = "the body is over 1 MiB",
  ["415"] = "the body is no JSON", ["422"] = "the command refuses it", ["500"] = "a fault in sallyport", ["503"] = "another change is being made" }

local function responses_of(row, schema)
  local good = row.makes and "201" or "200"
  local out = { [good] = { description = "done", content = { ["application/json"] = { schema = schema } },
    headers = (row.method == "GET" or row.id) and { ETag = { schema = { type = "string" } } } or nil } }
  if row.method == "GET" then out["304"] = { description = "it is as it was (If-None-Match)" } end
  for status in pairs(faults) do out[status] = { ["$ref"] = "#/components/responses/" .. status } end
  return out
end

--- The document.
function M.make()
  local things, cells = documented()
  local paths, responses = {}, {}
  for _, row in ipairs(rows.rows()) do
    local item = paths[row.path] or {}
    paths[row.path] = item
    local scope = row.scope == "setting" and "write, or policy for upstream-ca and connect-to"
      or rows.of_people(row) and "write, and operator where the user is an operator or may answer what agents ask, or is to be" or row.scope
    item[row.method:lower()] = { operationId = (row.method:lower() .. row.path):gsub("[{}]", ""):gsub("/", "_"), tags = array { row.path:match("^/(%l+)") },
      summary = row.about or row.words, description = ("Scope: %s. On the command line: sallyport %s"):format(scope, row.line or row.words or row.pick),
      parameters = parameters_of(row), requestBody = row.body and body_of(row) or nil, responses = responses_of(row, answer_of(row, things, cells)) }
  end
  things.error = { type = "object", required = array { "error", "message", "hint" }, properties = { error = { type = "string" },
    message = { type = "string" }, hint = { type = "string" } } }
  for status, says in pairs(faults) do
    responses[status] = { description = says, content = { ["application/json"] = { schema = ref "error" } } }
  end
  return { openapi = "3.1.0", info = { title = "Sallyport", version = require("host").version,
    description = "What the page and the command line do, for programs. sallyport help api says more." },
    servers = array { { url = "/api/v1" } }, security = array { { token = array {} } },
    components = { schemas = things, responses = responses, securitySchemes = { token = { type = "http", scheme = "bearer",
      description = "sallyport token add NAME --scope read|write|policy|operator" } } }, paths = paths }
end

return M
