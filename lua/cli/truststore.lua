--- Java's file of trusted roots with one more certificate in it: a JKS, which every release reads (sun.security.provider.JavaKeyStore).
local M = {}

local MAGIC, TRUSTED = "\xfe\xed\xfe\xed", 2
local PASSWORD = "changeit"     -- what everybody's has; it keeps nothing secret, the digest is one over the file

local function entries(pem, alias)
  local out = {}
  for body in pem:gmatch("%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-(.-)%-%-%-%-%-END") do
    local der = require("secret").decode("base64", (body:gsub("%s", "")))
    if der then out[#out + 1] = (">I4s2I8s2s4"):pack(TRUSTED, alias .. #out, 0, "X.509", der) end
  end
  return out
end

--- was: the file of now; ca: PEM of what is added; all: PEM of everything, for a file of another kind -> the file
function M.with(was, ca, all)
  local count, list = 0, nil
  if was:sub(1, 4) == MAGIC and #was >= 32 then
    list = entries(ca, "sallyport")
    count = (">I4"):unpack(was, 9)
    list[#list + 1] = was:sub(13, -21)
    count = count + #list - 1
  else
    list = entries(all, "root")
    count = #list
  end
  local text = MAGIC .. (">I4I4"):pack(2, count) .. table.concat(list)
  local salt = PASSWORD:gsub(".", "\0%0") .. "Mighty Aphrodite"
  return text .. require("sign.core").digest("sha1", salt .. text)
end

return M
