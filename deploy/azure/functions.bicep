// The Functions host in Azure. Premium runs an image; Flex takes the package's folder as code.
//
//   az deployment group create --resource-group scoring --template-file deploy/azure/functions.bicep \
//     --parameters name=diabetes
//
// Premium: then push the image to the registry of the output. Flex (plan=Flex): then, in the folder
// of the package, func azure functionapp publish NAME.
@description('Of the app, and the beginning of the other names.')
param name string
param location string = resourceGroup().location
@allowed(['Premium', 'Flex'])
param plan string = 'Premium'
@description('In the registry of the output; of Premium alone.')
param image string = 'scoring:1'
param pythonVersion string = '3.11'
@description('A cache for inputs and results.')
param withRedis bool = false

var isFlex = plan == 'Flex'

module shared 'shared.bicep' = {
  name: 'shared'
  params: {
    name: name
    location: location
    withRedis: withRedis
  }
}

resource hosting 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: '${name}-plan'
  location: location
  kind: isFlex ? 'functionapp' : 'elastic'
  sku: isFlex ? { name: 'FC1', tier: 'FlexConsumption' } : { name: 'EP1', tier: 'ElasticPremium' }
  properties: {
    reserved: true
    maximumElasticWorkerCount: isFlex ? null : 20
  }
}

var settings = union(
  {
    AZURE_CLIENT_ID: shared.outputs.clientId
    AzureWebJobsStorage__accountName: shared.outputs.storageName
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: shared.outputs.clientId
    APPLICATIONINSIGHTS_CONNECTION_STRING: shared.outputs.insightsConnection
    TriggerConnectionString__blobServiceUri: shared.outputs.blobUri
    TriggerConnectionString__queueServiceUri: shared.outputs.queueUri
    TriggerConnectionString__credential: 'managedidentity'
    TriggerConnectionString__clientId: shared.outputs.clientId
    ServiceBusConnectionString__fullyQualifiedNamespace: '${shared.outputs.busName}.servicebus.windows.net'
    ServiceBusConnectionString__credential: 'managedidentity'
    ServiceBusConnectionString__clientId: shared.outputs.clientId
  },
  withRedis ? {
    REDIS_HOST: shared.outputs.redisHost
    REDIS_PORT: '10000'
    REDIS_SSL: 'true'
  } : {},
  isFlex ? {} : {
    FUNCTIONS_EXTENSION_VERSION: '~4'
    WEBSITES_ENABLE_APP_SERVICE_STORAGE: 'false'
  }
)

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: name
  location: location
  kind: isFlex ? 'functionapp,linux' : 'functionapp,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${shared.outputs.identityId}': {}
    }
  }
  properties: {
    serverFarmId: hosting.id
    httpsOnly: true
    keyVaultReferenceIdentity: shared.outputs.identityId
    siteConfig: isFlex ? {
      minTlsVersion: '1.2'
    } : {
      linuxFxVersion: 'DOCKER|${shared.outputs.registryServer}/${image}'
      acrUseManagedIdentityCreds: true
      acrUserManagedIdentityID: shared.outputs.clientId
      minTlsVersion: '1.2'
      ftpsState: 'Disabled'
      healthCheckPath: '/health/ready'
      minimumElasticInstanceCount: 1
    }
    functionAppConfig: isFlex ? {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${shared.outputs.blobUri}packages'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: shared.outputs.identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: pythonVersion
      }
      scaleAndConcurrency: {
        instanceMemoryMB: 2048
        maximumInstanceCount: 100
      }
    } : null
  }
}

resource appSettings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: app
  name: 'appsettings'
  properties: settings
}

output url string = 'https://${app.properties.defaultHostName}'
output registry string = shared.outputs.registryServer
