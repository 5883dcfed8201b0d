--- Prints what a wire case returns as JSON. A byte is a code point below 256, so that any byte gets through.
local file = ...
if not file and arg then file = arg[1] end

local function escape(c) return ("\\u%04x"):format(c:byte()) end

local function encode(v, out)
  local kind = type(v)
  if kind == "string" then
    out[#out + 1] = '"' .. v:gsub('[%c"\\\128-\255]', escape) .. '"'
  elseif kind ~= "table" then
    out[#out + 1] = tostring(v)
  elseif #v > 0 then
    for i, item in ipairs(v) do
      out[#out + 1] = i == 1 and "[" or ","
      encode(item, out)
    end
    out[#out + 1] = "]"
  else
    out[#out + 1] = "{"
    local first = true
    for key, item in pairs(v) do
      assert(type(key) == "string", "a table is a list or has names")
      if not first then out[#out + 1] = "," end
      first = false
      encode(key, out)
      out[#out + 1] = ":"
      encode(item, out)
    end
    out[#out + 1] = "}"
  end
end

local out = {}
encode(assert(loadfile(file))(), out)
print(table.concat(out))
